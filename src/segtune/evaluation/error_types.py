"""What went wrong: every detection and every missed object by its type of error.

The types are those of TIDE (Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object
Detection Errors"), with its IoU thresholds: 0.5 for a match, 0.1 for the background.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.detections import Detection, Detections
from segtune.evaluation.matching import iou_matrix, match_greedily

ErrorType = Literal[
    "correct", "classification", "localization", "both", "duplicate", "background", "missed"
]
Array = npt.NDArray[Any]

ERROR_TYPES: tuple[ErrorType, ...] = get_args(ErrorType)
MATCH_IOU = 0.5  # from which a detection means an object
BACKGROUND_IOU = 0.1  # below which it has nothing to do with it
NOTHING = "(nothing)"


@dataclass(frozen=True)
class ErrorRecord:
    """A detection, or an object that was missed."""

    type: ErrorType
    image_id: int
    category_id: int  # of the detection; of the object where it was missed
    iou: float  # with `annotation`
    annotation: Annotation | None  # the object that it overlaps most
    detection: Detection | None  # None where missed

    @property
    def score(self) -> float | None:
        """Of the detection; None where missed."""
        return self.detection.score if self.detection else None


def classify_errors(
    split: Split, detections: Detections, thresholds: Mapping[int, float], with_masks: bool
) -> list[ErrorRecord]:
    """Classify every detection, and list the objects that were missed.

    Detections of a class match its objects from the best score on, each the free object that
    it overlaps most. Whatever matches a crowd or, with masks, a box-only object is left out;
    so are these. An object that another error explains (it was detected as the wrong class or
    localized badly) does not count as missed as well.

    Args:
        split: the ground truth.
        detections: of the model.
        thresholds: class id -> confidence threshold of its detections.
        with_masks: compare masks, else boxes.
    """
    records: list[ErrorRecord] = []
    for image in split.images:
        confident = [
            d for d in detections.in_image(image.id) if d.score >= thresholds[d.category_id]
        ]
        confident.sort(key=lambda d: -d.score)
        records += _classify_image(image, split.annotations[image.id], confident, with_masks)
    return records


def error_counts(
    records: Iterable[ErrorRecord], names: Mapping[int, str]
) -> dict[str, dict[ErrorType, int]]:
    """Class name -> type -> how many."""
    found = Counter((r.category_id, r.type) for r in records)
    return {
        name: {kind: found[category, kind] for kind in ERROR_TYPES}
        for category, name in names.items()
    }


def confusion(
    records: Iterable[ErrorRecord], names: Mapping[int, str]
) -> dict[str, dict[str, int]]:
    """Ground truth -> prediction -> how many; "(nothing)" for either.

    A badly localized object was named correctly. A second detection of the same object is
    left out.
    """
    table = {truth: dict.fromkeys([*names.values(), NOTHING], 0) for truth in names.values()}
    table[NOTHING] = dict.fromkeys(names.values(), 0)
    for record in records:
        name = names[record.category_id]
        if record.type == "missed":
            table[name][NOTHING] += 1
        elif record.type in ("correct", "classification", "localization") and record.annotation:
            table[names[record.annotation.category_id]][name] += 1
        elif record.type in ("both", "background"):
            table[NOTHING][name] += 1
    return table


def _classify_image(
    image: Image,
    objects: Sequence[Annotation],
    detections: Sequence[Detection],
    with_masks: bool,
) -> list[ErrorRecord]:
    ignored = np.array([a.iscrowd or (with_masks and not a.segmentation) for a in objects], bool)
    ious = iou_matrix(image, detections, objects, regions=ignored.tolist(), with_masks=with_masks)
    own = np.array([[a.category_id == d.category_id for a in objects] for d in detections], bool)
    own = own.reshape(ious.shape)
    matches = match_greedily(ious, own & ~ignored, MATCH_IOU)
    explained: set[int] = set()
    records: list[ErrorRecord] = []
    for row, detection in enumerate(detections):
        kind: ErrorType
        if row in matches:
            kind, place = "correct", matches[row]
        elif (own[row] & ignored & (ious[row] >= MATCH_IOU)).any():
            continue
        else:
            kind, place = _error_type(ious[row], own[row], ignored)
        if kind in ("correct", "classification", "localization"):
            explained.add(place)
        annotation, iou = (None, 0.0) if place < 0 else (objects[place], float(ious[row, place]))
        records.append(
            ErrorRecord(kind, image.id, detection.category_id, iou, annotation, detection)
        )
    return records + _missed(image, objects, explained, ignored)


def _missed(
    image: Image, objects: Sequence[Annotation], explained: set[int], ignored: Array
) -> list[ErrorRecord]:
    return [
        ErrorRecord("missed", image.id, a.category_id, iou=0.0, annotation=a, detection=None)
        for place, a in enumerate(objects)
        if place not in explained and not ignored[place]
    ]


def _error_type(ious: Array, own: Array, ignored: Array) -> tuple[ErrorType, int]:
    """The type of a detection without a match, and the object that it overlaps most."""
    best_own, place_own = _best(np.where(own & ~ignored, ious, -1.0))
    best_other, place_other = _best(np.where(~own & ~ignored, ious, -1.0))
    if best_own >= MATCH_IOU:
        return "duplicate", place_own
    if best_other >= MATCH_IOU:
        return "classification", place_other
    if best_own >= BACKGROUND_IOU:
        return "localization", place_own
    if best_other >= BACKGROUND_IOU:
        return "both", place_other
    return "background", -1


def _best(ious: Array) -> tuple[float, int]:
    if not len(ious):
        return -1.0, -1
    place = int(np.argmax(ious))
    return float(ious[place]), place
