"""The contents of `runs.json`: runs compared with the first of them, typed."""

from dataclasses import dataclass
from pathlib import Path

from segtune.core.errors import DatasetError
from segtune.core.typed_json import read_typed
from segtune.dataset.masks import MAX_COORDINATE, MAX_PIXELS, BoxXywh, Rle, run_lengths
from segtune.evaluation.leaks import Leak
from segtune.evaluation.run_comparison import Comparison
from segtune.evaluation.run_settings import SettingRow

AGAIN = "Run segtune.runs again"


@dataclass(frozen=True)
class RunSummary:
    """A results folder."""

    name: str  # short, and unlike those of the others
    folder: str
    version: str  # of segtune
    images: dict[str, int]  # by split
    classes: int
    held_out: bool  # False where `valid` stands in for a missing test split


@dataclass(frozen=True)
class ShownObject:
    """An object or a detection that is drawn."""

    name: str  # class
    bbox_xywh: BoxXywh
    rle: Rle | None
    score: float | None = None  # of a detection
    correct: bool = True  # False: a detection that matches no object


@dataclass(frozen=True)
class ShownRun:
    """What a run detects in an image, above its confidence thresholds."""

    name: str  # of the run
    detections: tuple[ShownObject, ...]  # the best score first
    missed: int  # objects


@dataclass(frozen=True)
class ShownImage:
    """An image that is worth looking at."""

    file_name: str
    root: str  # folder of the images
    width: int  # pixels
    height: int  # pixels
    reason: str
    ground_truth: tuple[ShownObject, ...]  # of the reference
    runs: tuple[ShownRun, ...]  # those whose test split has it


@dataclass(frozen=True)
class Runs:
    """A comparison of runs."""

    sentence: str
    runs: tuple[RunSummary, ...]  # the first is the reference
    confidence_threshold: float  # of the reference, for the false alarms of all
    settings: tuple[SettingRow, ...]  # in which they differ
    code: tuple[str, ...]  # files that differ
    leaks: tuple[Leak, ...]
    comparisons: tuple[Comparison, ...]  # of each further run
    images: tuple[ShownImage, ...]


def read_runs(path: Path) -> Runs:
    """Read what `segtune.runs` wrote.

    Raises:
        DatasetError: when the file is missing or has another format.
    """
    runs = read_typed(path, Runs, AGAIN)
    for image in runs.images:
        try:
            _require_drawable(image)
        except ValueError as error:
            name = image.file_name[:200]
            raise DatasetError(str(error), file=path, record=name, fix=AGAIN) from None
    return runs


def _require_drawable(image: ShownImage) -> None:
    """Check that an image can be drawn; raises ValueError."""
    if min(image.width, image.height) < 1 or image.width * image.height > MAX_PIXELS:
        raise ValueError(f"an image of {image.width} x {image.height} pixels")
    for o in (*image.ground_truth, *(d for run in image.runs for d in run.detections)):
        if o.rle:
            run_lengths(o.rle, image.height, image.width)
        # Written so that NaN fails too.
        if not all(abs(value) <= MAX_COORDINATE for value in o.bbox_xywh):
            raise ValueError("a box that is not in an image")
