"""Error types: what went wrong with every detection, and which objects were missed.

The types are those of TIDE (Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object
Detection Errors"), with its IoU thresholds: 0.5 for a match, 0.1 for the background.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.detections import Detection, Detections
from segtune.evaluation.arrays import Array
from segtune.evaluation.matching import MATCH_IOU, iou_matrix, match_greedily

ErrorType = Literal[
    "correct", "classification", "localization", "both", "duplicate", "background", "missed"
]
ERROR_TYPES: tuple[ErrorType, ...] = get_args(ErrorType)
BACKGROUND_IOU = 0.1  # below it, a detection has nothing to do with an object
EXPLAINING = ("correct", "classification", "localization")  # their object does not count as missed
NOTHING = "(nothing)"


@dataclass(frozen=True)
class ErrorRecord:
    """A detection, or an object that was missed."""

    type: ErrorType
    image_id: int
    category_id: int  # of the detection; of the object where it was missed
    iou: float  # with `annotation`
    annotation: Annotation | None  # the object with the highest IoU
    detection: Detection | None  # None where missed
    # Ids of all objects, also of crowds and those without a mask, that the detection overlaps with
    # an IoU of at least 0.1.
    overlapped: tuple[int, ...] = ()

    @property
    def score(self) -> float | None:
        """Of the detection; None where missed."""
        return self.detection.score if self.detection else None


def classify_errors(
    split: Split, detections: Detections, thresholds: Mapping[int, float], *, with_masks: bool
) -> list[ErrorRecord]:
    """Classify every detection, and list the objects that were missed.

    Detections of a class match its objects from the highest score down, each the free object
    with the highest IoU. Whatever matches a crowd or, with masks, a box-only object is left
    out, and so are these objects. An object that another error explains (it was detected as
    the wrong class or localized poorly) does not count as missed as well.

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
        objects = split.annotations[image.id]
        records += _classify_image(image, objects, confident, with_masks=with_masks)
    return records


def error_counts(
    records: Iterable[ErrorRecord], names: Mapping[int, str]
) -> dict[str, dict[ErrorType, int]]:
    """Class name -> type -> count."""
    found = Counter((r.category_id, r.type) for r in records)
    return {
        name: {kind: found[category, kind] for kind in ERROR_TYPES}
        for category, name in names.items()
    }


def confusion(
    records: Iterable[ErrorRecord], names: Mapping[int, str]
) -> dict[str, dict[str, int]]:
    """Ground truth -> prediction -> count; "(nothing)" for either.

    A poorly localized object was still classified correctly. Duplicates are left out.
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


@dataclass(frozen=True)
class _Overlaps:
    """How the detections of an image overlap its objects."""

    ious: Array  # (detections, objects)
    same_class: Array  # (detections, objects) bool
    ignored: Array  # (objects,) bool: crowds and, with masks, box-only objects


# The type of a detection and the position of its object; None for one that is left out.
_Finding = tuple[ErrorType, int | None] | None


def _classify_image(
    image: Image,
    objects: Sequence[Annotation],
    detections: Sequence[Detection],
    *,
    with_masks: bool,
) -> list[ErrorRecord]:
    overlaps = _overlaps(image, objects, detections, with_masks=with_masks)
    findings = _findings(overlaps)
    explained = {finding[1] for finding in findings if finding and finding[0] in EXPLAINING}
    records = [
        _record(detection, finding, objects, ious)
        for detection, finding, ious in zip(detections, findings, overlaps.ious, strict=True)
        if finding
    ]
    missed = [
        a
        for place, a in enumerate(objects)
        if place not in explained and not overlaps.ignored[place]
    ]
    return records + [_missed(a) for a in missed]


def _overlaps(
    image: Image,
    objects: Sequence[Annotation],
    detections: Sequence[Detection],
    *,
    with_masks: bool,
) -> _Overlaps:
    ignored = [bool(a.iscrowd or (with_masks and not a.segmentation)) for a in objects]
    return _Overlaps(
        ious=iou_matrix(image, detections, objects, regions=ignored, with_masks=with_masks),
        same_class=np.equal.outer(
            [d.category_id for d in detections], [a.category_id for a in objects]
        ),
        ignored=np.array(ignored, bool),
    )


def _findings(overlaps: _Overlaps) -> list[_Finding]:
    ious, same_class, ignored = overlaps.ious, overlaps.same_class, overlaps.ignored
    matches = match_greedily(ious, same_class & ~ignored, MATCH_IOU)
    return [
        ("correct", matches[row])
        if row in matches
        else _unmatched(ious[row], same_class[row], ignored)
        for row in range(len(ious))
    ]


def _unmatched(ious: Array, same_class: Array, ignored: Array) -> _Finding:
    """What a detection without a match is; all arrays are (objects,)."""
    if (same_class & ignored & (ious >= MATCH_IOU)).any():
        return None
    own_iou, own = _best(np.where(same_class & ~ignored, ious, -1.0))
    other_iou, other = _best(np.where(~same_class & ~ignored, ious, -1.0))
    if own_iou >= MATCH_IOU:
        return "duplicate", own
    if other_iou >= MATCH_IOU:
        return "classification", other
    if own_iou >= BACKGROUND_IOU:
        return "localization", own
    if other_iou >= BACKGROUND_IOU:
        return "both", other
    return "background", None


def _best(ious: Array) -> tuple[float, int]:
    """The highest IoU and its position."""
    if not len(ious):
        return -1.0, -1
    place = int(np.argmax(ious))
    return float(ious[place]), place


def _record(
    detection: Detection,
    finding: tuple[ErrorType, int | None],
    objects: Sequence[Annotation],
    ious: Array,
) -> ErrorRecord:
    kind, place = finding
    return ErrorRecord(
        type=kind,
        image_id=detection.image_id,
        category_id=detection.category_id,
        iou=0.0 if place is None else float(ious[place]),
        annotation=None if place is None else objects[place],
        detection=detection,
        overlapped=tuple(objects[n].id for n in np.flatnonzero(ious >= BACKGROUND_IOU)),
    )


def _missed(a: Annotation) -> ErrorRecord:
    return ErrorRecord(
        type="missed",
        image_id=a.image_id,
        category_id=a.category_id,
        iou=0.0,
        annotation=a,
        detection=None,
    )
