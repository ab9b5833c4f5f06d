"""The contents of `metrics.json`: every number of an evaluation, typed."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from segtune.core.typed_json import read_typed
from segtune.evaluation.average_precision import AveragePrecision, Kind
from segtune.evaluation.bootstrap import Interval
from segtune.evaluation.calibration import AtThreshold, Reliability
from segtune.evaluation.cgf1 import ConceptScores
from segtune.evaluation.error_types import ErrorType
from segtune.evaluation.forgetting import Forgetting
from segtune.evaluation.label_issues import LabelIssue

MIN_IMAGES = 10  # with fewer, intervals say little


class Outcome(StrEnum):
    """Whether the fine-tuned model beats zero-shot."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verdict:
    """The outcome, and a sentence with the difference and any reservations."""

    outcome: Outcome
    sentence: str


@dataclass(frozen=True)
class ClassScores:
    """A score per class and its mean over classes; None where nothing can be measured."""

    mean: float | None
    per_class: dict[str, float | None]


@dataclass(frozen=True)
class ClassIntervals:
    """A difference per class and that of the mean over classes."""

    mean: Interval
    per_class: dict[str, Interval]


@dataclass(frozen=True)
class Overlap:
    """Pixel overlap of all objects of a class together."""

    dice: ClassScores
    iou: ClassScores
    boundary_iou: ClassScores


@dataclass(frozen=True)
class ChosenThreshold(AtThreshold):
    """A class's confidence threshold, with precision and recall on the test split."""

    chosen_on_valid: bool  # False: the default, because none could be chosen on valid


@dataclass(frozen=True)
class Calibration:
    """How far scores can be trusted, per class by name."""

    thresholds: dict[str, ChosenThreshold]
    curves: dict[str, list[float] | None]  # precision at recalls from 0 to 1 in equal steps
    reliability: Reliability


@dataclass(frozen=True)
class ModelMetrics:
    """Everything about one model; `mask` and `overlap` are None where no object has a mask."""

    box: AveragePrecision
    mask: AveragePrecision | None
    cgf1: dict[Kind, ConceptScores]
    overlap: Overlap | None
    false_alarms: dict[str, float | None]
    calibration: Calibration
    errors: dict[str, dict[ErrorType, int]]  # by class
    confusion: dict[str, dict[str, int]]  # ground truth -> prediction -> count

    def average_precision(self, kind: Kind) -> AveragePrecision:
        """Of masks or boxes; of masks only where some object has one."""
        found = self.mask if kind == "mask" else self.box
        assert found is not None
        return found


@dataclass(frozen=True)
class ConceptIntervals:
    """Differences of cgF1 and of its factors."""

    cgf1: Interval
    pmf1: Interval
    il_mcc: Interval


@dataclass(frozen=True)
class OverlapIntervals:
    """Differences of overlaps."""

    dice: ClassIntervals
    iou: ClassIntervals
    boundary_iou: ClassIntervals


@dataclass(frozen=True)
class Differences:
    """Fine-tuned minus zero-shot, with 95% intervals."""

    average_precision: dict[Kind, ClassIntervals]
    cgf1: dict[Kind, ConceptIntervals]
    false_alarms: ClassIntervals
    overlap: OverlapIntervals | None


@dataclass(frozen=True)
class Counts:
    """How much was evaluated."""

    images: int
    objects: int
    box_only_objects: int

    @property
    def few_images(self) -> bool:
        """Whether there are so few that intervals say little."""
        return self.images < MIN_IMAGES


@dataclass(frozen=True)
class Metrics:
    """The evaluation of a base and a fine-tuned model on one split."""

    verdict: Verdict
    kind: Kind  # what the verdict is about: masks where there are some
    held_out: bool  # False where `valid` stands in for a missing test split
    confidence_threshold: float  # for false alarms, and classes without one chosen on `valid`
    counts: Counts
    base: ModelMetrics
    tuned: ModelMetrics
    difference: Differences
    forgetting: Forgetting | None
    label_issues: list[LabelIssue]


def read_metrics(path: Path) -> Metrics:
    """Read the metrics that `segtune.evaluate` wrote.

    Raises:
        DatasetError: when the file is missing or has another format.
    """
    return read_typed(path, Metrics, fix="Run segtune.evaluate again")
