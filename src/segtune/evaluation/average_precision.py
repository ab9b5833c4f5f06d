"""Average precision by pycocotools, at the images' own resolution.

No confidence threshold is applied, and every class counts in every image. Box-only objects
have no mask to compare with: in mask metrics their box is a region in which detections count
neither as right nor as wrong.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.detections import Detection, Detections
from segtune.dataset.masks import box_to_polygon, rle_area, rle_bbox_xywh, segmentation_to_rle
from segtune.evaluation.arrays import Array
from segtune.evaluation.matching import ClassMatches

Kind = Literal["box", "mask"]
Records = list[dict[str, Any]]

IOU_TYPES = {"box": "bbox", "mask": "segm"}  # pycocotools' names
SUMMARY = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
SIZES = ("small", "medium", "large")  # below 32 x 32 pixels, below 96 x 96, and above
MAX_DETECTIONS = 100  # COCO's: of a class in an image, those with the highest scores count
IOU_THRESHOLDS = np.arange(0.5, 1, 0.05)  # as COCO averages over them


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's twelve numbers, and AP per class; None where nothing can be measured."""

    AP: float | None
    AP50: float | None
    AP75: float | None
    AP_small: float | None
    AP_medium: float | None
    AP_large: float | None
    AR_1: float | None
    AR_10: float | None
    AR_100: float | None
    AR_small: float | None
    AR_medium: float | None
    AR_large: float | None
    per_class: dict[str, float | None]
    per_class_and_size: dict[str, dict[str, float | None]]  # by the area of the object's mask
    ignored: int  # box-only objects, which mask metrics leave out


@dataclass(frozen=True)
class ScoredDetections:
    """What pycocotools computes, and per class which detections match an object."""

    summary: AveragePrecision
    matches: tuple[ClassMatches, ...]


def score_detections(split: Split, detections: Detections, kind: Kind) -> ScoredDetections:
    """Match detections with the ground truth by boxes or masks, and summarize.

    Where an image has more than `MAX_DETECTIONS` objects of a class, as many detections count, in
    place of COCO's 100: a perfect model scores 1.
    """
    limit = _detection_limit(split)
    classes = [
        _evaluate_class(split, detections, c.id, kind=kind, limit=limit) for c in split.categories
    ]
    precision = np.concatenate([found.precision for found in classes], axis=2)
    recall = np.concatenate([found.recall for found in classes], axis=1)
    names = [category.name for category in split.categories]
    summary = AveragePrecision(
        **_summary(precision, recall, kind),
        per_class={name: _ap(precision, place, 0) for place, name in enumerate(names)},
        per_class_and_size={
            name: {size: _ap(precision, place, area) for area, size in enumerate(SIZES, start=1)}
            for place, name in enumerate(names)
        },
        ignored=sum(not a.segmentation for a in split.objects) if kind == "mask" else 0,
    )
    return ScoredDetections(summary, tuple(found.matches for found in classes))


def average_precision_per_class(
    split: Split, detections: Detections, kind: Kind
) -> dict[str, float | None]:
    """AP per class as in `score_detections`, in a quarter of the time: without sizes.

    The mean over the classes that have objects is COCO's AP.
    """
    limit = _detection_limit(split)
    return {
        c.name: _ap(
            _evaluate_class(
                split, detections, c.id, kind=kind, limit=limit, by_size=False
            ).precision,
            0,
            0,
        )
        for c in split.categories
    }


def _detection_limit(split: Split) -> int:
    counts = Counter((a.image_id, a.category_id) for a in split.objects)
    return max([MAX_DETECTIONS, *counts.values()])


def average_precision(split: Split, detections: Detections, kind: Kind) -> AveragePrecision:
    """The summary of `score_detections`."""
    return score_detections(split, detections, kind).summary


@dataclass(frozen=True)
class _EvaluatedClass:
    precision: Array  # (IoU thresholds, recalls, 1, sizes, limits of detections)
    recall: Array  # (IoU thresholds, 1, sizes, limits of detections)
    matches: ClassMatches


class _Evaluator(COCOeval):
    """Skips images without anything of the given size, which contribute nothing."""

    def evaluateImg(  # noqa: N802
        self, image: int, category: int, areas: Sequence[float], max_detections: int
    ) -> Any:
        things = (*self._gts[image, category], *self._dts[image, category])
        if not any(areas[0] <= thing["area"] <= areas[1] for thing in things):
            return None
        return super().evaluateImg(image, category, areas, max_detections)


def _evaluate_class(
    split: Split,
    detections: Detections,
    category: int,
    *,
    kind: Kind,
    limit: int,
    by_size: bool = True,
) -> _EvaluatedClass:
    """One class at a time, because pycocotools keeps a lot of data per image."""
    objects = _object_records(split, category, kind)
    predicted = _detection_records(split, detections, category, kind=kind)
    evaluator = _Evaluator(_indexed(split, objects), _indexed(split, predicted), IOU_TYPES[kind])
    evaluator.params.catIds = [category]
    if not by_size:
        del evaluator.params.areaRng[1:], evaluator.params.areaRngLbl[1:]
    evaluator.params.maxDets = [*evaluator.params.maxDets[:2], limit]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
    found = evaluator.eval
    all_sizes = evaluator.evalImgs[: len(split.images)]
    return _EvaluatedClass(found["precision"], found["recall"], _class_matches(all_sizes))


def _summary(precision: Array, recall: Array, kind: Kind) -> dict[str, float | None]:
    """The twelve numbers by pycocotools' own formulas, over all classes."""
    evaluator = COCOeval(iouType=IOU_TYPES[kind])
    evaluator.eval = {"precision": precision, "recall": recall}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.summarize()
    return {name: _known(value) for name, value in zip(SUMMARY, evaluator.stats, strict=True)}


def _ap(precision: Array, place: int, area: int) -> float | None:
    values = precision[:, :, place, area, -1]
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _class_matches(per_image: Sequence[Mapping[str, Any] | None]) -> ClassMatches:
    known = [(n, e) for n, e in enumerate(per_image) if e is not None]
    objects = np.zeros(len(per_image), np.int64)
    for number, entry in known:
        objects[number] = np.sum(np.asarray(entry["gtIgnore"]) == 0)
    matched = [e["dtMatches"] > 0 for _, e in known] or [np.zeros((len(IOU_THRESHOLDS), 0), bool)]
    ignored = [e["dtIgnore"] > 0 for _, e in known] or matched
    scores = np.array([value for _, e in known for value in e["dtScores"]])
    order = np.argsort(-scores, kind="mergesort")  # as pycocotools breaks ties
    return ClassMatches(
        score=scores[order],
        image=np.array([n for n, e in known for _ in e["dtScores"]], np.int64)[order],
        matched=np.concatenate(matched, axis=1)[:, order],
        counted=~np.concatenate(ignored, axis=1)[:, order],
        objects=objects,
    )


def _object_records(split: Split, category: int, kind: Kind) -> Records:
    return [
        _object_record(a, image, kind)
        for image in split.images
        for a in split.ground_truth(image.id, category)
    ]


def _object_record(a: Annotation, image: Image, kind: Kind) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": a.id,
        "image_id": a.image_id,
        "category_id": a.category_id,
        "bbox": list(a.bbox_xywh),
        "area": a.area,
        "iscrowd": a.iscrowd,
    }
    if kind == "mask":
        segmentation = a.segmentation or [box_to_polygon(a.bbox_xywh)]
        record["segmentation"] = segmentation_to_rle(segmentation, image.height, image.width)
        # pycocotools ignores crowd regions: a detection in one counts neither way.
        record["iscrowd"] = int(a.iscrowd or not a.segmentation)
    return record


def _detection_records(
    split: Split, detections: Detections, category: int, *, kind: Kind
) -> Records:
    found = (d for image in split.images for d in detections.of(image.id, category))
    return [{**_detection_record(d, kind), "id": n} for n, d in enumerate(found, start=1)]


def _detection_record(found: Detection, kind: Kind) -> dict[str, Any]:
    # Not by COCO.loadRes, which raises on an empty list and takes a mask's size from its box.
    record = {
        "image_id": found.image_id,
        "category_id": found.category_id,
        "score": found.score,
        "iscrowd": 0,
    }
    if kind == "box":
        _, _, width, height = found.bbox_xywh
        return {**record, "bbox": list(found.bbox_xywh), "area": width * height}
    return {
        **record,
        "segmentation": found.rle,
        "bbox": rle_bbox_xywh(found.rle),
        "area": rle_area(found.rle),
    }


def _indexed(split: Split, annotations: Records) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i.id, "height": i.height, "width": i.width} for i in split.images],
        "categories": [{"id": c.id, "name": c.name} for c in split.categories],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _known(value: float) -> float | None:
    # pycocotools reports -1 where there is nothing to measure.
    return None if value == -1 else float(value)
