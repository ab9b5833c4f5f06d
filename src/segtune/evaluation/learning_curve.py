"""Would more data help? A power law through scores of training runs on fewer images.

The error, 1 - score, mostly falls as a power of the number of images (Hestness et al. 2017,
"Deep Learning Scaling is Predictable, Empirically"). A line through its logarithm says what
twice as many images would bring, as far as so few points can tell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from segtune.core.typed_json import read_typed

MIN_GAIN = 0.01  # of a score; less is not worth labeling for
MIN_ERROR = 1e-6  # a perfect score has no logarithm


class CurveOutcome(StrEnum):
    """Whether more data would help."""

    HELPS = "helps"
    LITTLE_GAIN = "little gain"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class CurveVerdict:
    """The outcome, and one sentence that says how much to expect."""

    outcome: CurveOutcome
    sentence: str


@dataclass(frozen=True)
class Extrapolation:
    """What the power law expects of a number of images."""

    images: int
    fitted: float


@dataclass(frozen=True)
class CurvePoint(Extrapolation):
    """A training run: its number of images, its score, and the power law there."""

    score: float


@dataclass(frozen=True)
class LearningCurve:
    """Scores of training runs on fewer and more images, and what twice as many would bring."""

    metric: str  # the name of the score
    points: tuple[CurvePoint, ...]  # from few images to many
    doubled: Extrapolation
    gain: float  # expected of twice as many images
    spread: float  # largest distance of a point from the power law
    verdict: CurveVerdict


def fit_learning_curve(
    metric: str, images: Sequence[int], scores: Sequence[float]
) -> LearningCurve:
    """Fit the power law, and extrapolate it to twice the most images.

    Args:
        metric: the name of the score.
        images: of each training run, at least two different numbers.
        scores: of each training run, at most 1 (a perfect score counts as 0.999999).
    """
    pairs = sorted(zip(images, scores, strict=True))
    counts, values = np.array(pairs, float).T
    errors = np.clip(1 - values, MIN_ERROR, None)
    slope, level = np.polyfit(np.log(counts), np.log(errors), 1)

    def fitted(count: float) -> float:
        return 1 - math.exp(level + slope * math.log(count))

    points = tuple(
        CurvePoint(images=count, score=score, fitted=fitted(count)) for count, score in pairs
    )
    most = max(images)
    gain = fitted(2 * most) - fitted(most)
    spread = max(abs(point.score - point.fitted) for point in points)
    return LearningCurve(
        metric=metric,
        points=points,
        doubled=Extrapolation(2 * most, fitted(2 * most)),
        gain=gain,
        spread=spread,
        verdict=_verdict(gain, spread, most=most, metric=metric),
    )


def read_learning_curve(path: Path) -> LearningCurve:
    """Read the curve that `segtune.learning_curve` wrote.

    Raises:
        DatasetError: when the file is missing or has another format.
    """
    return read_typed(path, LearningCurve, fix="Run segtune.learning_curve again")


def _verdict(gain: float, spread: float, *, most: int, metric: str) -> CurveVerdict:
    expected = f"{2 * most} images instead of {most} are expected to bring {gain:+.3f} {metric}"
    if gain + spread < MIN_GAIN:
        return CurveVerdict(
            CurveOutcome.LITTLE_GAIN, f"more data of this kind would help little: {expected}"
        )
    if gain > max(MIN_GAIN, 2 * spread):
        return CurveVerdict(CurveOutcome.HELPS, f"more data would help: {expected}")
    sentence = f"undecided: {expected}, but points are up to {spread:.3f} off the curve"
    return CurveVerdict(CurveOutcome.UNDECIDED, sentence)
