"""How strongly to apply what was learned: the score against what is retained of the base model.

The merged weights are W + s * U, with the base model's weights W, the trained update U and a
strength s: 0 is the base model, 1 the model as it was trained. Between them, such models often
score nearly as well on the new data and forget less (Wortsman et al. 2022, "Robust fine-tuning of
zero-shot models").
"""

from dataclasses import dataclass
from pathlib import Path

from segtune.core.typed_json import read_typed


@dataclass(frozen=True)
class Estimate:
    """A score and its 95% interval; None where nothing can be measured."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class StrengthPoint:
    """A model with its update applied at some strength."""

    strength: float
    score: Estimate  # on the valid split
    retained: Estimate  # None where nothing is to be retained


@dataclass(frozen=True)
class StrengthCurve:
    """What `strength.json` holds."""

    score: str  # the name of the score: "mask AP", "box AP" or "cgF1"
    images: int  # of the valid split
    generic_images: int  # on which it is measured what is retained; 0: it is not
    prompts: tuple[str, ...]  # in these
    base_detections: int  # which are to be retained
    points: tuple[StrengthPoint, ...]  # from the base model on


def chosen_point(curve: StrengthCurve, retain: float) -> StrengthPoint:
    """The point with the best score of those that retain enough, but never the base model.

    Where none retains enough, the one that retains the most; of equal scores, the lower strength.

    Args:
        curve: the points to choose from.
        retain: least average precision against the base model's detections.
    """
    trained = [point for point in curve.points if point.strength]
    enough = [p for p in trained if p.retained.value is None or p.retained.value >= retain]
    known = enough or [max(trained, key=lambda p: p.retained.value or 0.0)]
    return max(known, key=lambda p: (p.score.value or 0.0, -p.strength))


def read_strength_curve(path: Path) -> StrengthCurve:
    """Read the curve that `segtune.strength` wrote.

    Raises:
        DatasetError: when the file is missing or has another format.
    """
    return read_typed(path, StrengthCurve, fix="Run segtune.strength again")
