"""Average precision by pycocotools, at the pictures' own resolution.

Nothing is thresholded and every class counts on every picture. Box-only objects have no
mask to be compared with: in mask metrics their box is a region where detections are
neither right nor wrong.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segtune.coco import Annotation, Split, rle_area, rle_bbox_xywh, segmentation_to_rle
from segtune.matches import ClassMatches

IouType = Literal["bbox", "segm"]
Array = npt.NDArray[Any]
Records = list[dict[str, Any]]
Result = Mapping[str, Any]  # COCO results format: image_id, category_id, bbox, segmentation, score

SUMMARY = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
SIZES = ("small", "medium", "large")  # below 32 x 32 pixels, below 96 x 96, and beyond
THRESHOLDS = np.arange(0.5, 1, 0.05)  # of IoU, as COCO averages over them


@dataclass(frozen=True)
class Scored:
    """What pycocotools found: its numbers, and per class which detections met an object."""

    summary: dict[str, Any]
    matches: tuple[ClassMatches, ...]


def score(split: Split, results: Sequence[Result], iou_type: IouType) -> Scored:
    """Match detections with the ground truth.

    Args:
        split: the ground truth.
        results: detections in COCO's results format, both `bbox` and `segmentation`.
        iou_type: "bbox" or "segm".

    Returns:
        As `summary` the twelve COCO numbers, `per_class` {name: AP} and `per_class_and_size`
        {name: {size: AP}} by the area of the object's mask, None where there is nothing to
        measure; `ignored` counts the box-only objects that mask metrics leave out. As
        `matches` what the bootstrap needs.
    """
    objects, detections = _by_class(split, iou_type, results)
    classes = [
        _evaluated(split, c.id, objects.pop(c.id, []), detections.pop(c.id, []), iou_type)
        for c in split.categories
    ]
    precision = np.concatenate([found.precision for found in classes], axis=2)
    recall = np.concatenate([found.recall for found in classes], axis=1)
    names = [category.name for category in split.categories]
    summary = {
        **_summary(precision, recall, iou_type),
        "per_class": {n: _ap(precision, place, 0) for place, n in enumerate(names)},
        "per_class_and_size": {
            n: {size: _ap(precision, place, area) for area, size in enumerate(SIZES, start=1)}
            for place, n in enumerate(names)
        },
        "ignored": sum(not a.segmentation for a in _annotations(split)) * (iou_type == "segm"),
    }
    return Scored(summary, tuple(found.matches for found in classes))


def average_precision(split: Split, results: Sequence[Result], iou_type: IouType) -> dict[str, Any]:
    """The `summary` of `score`."""
    return score(split, results, iou_type).summary


@dataclass(frozen=True)
class _Evaluated:
    precision: Array  # (thresholds, recalls, 1, sizes, limits of detections)
    recall: Array  # (thresholds, 1, sizes, limits of detections)
    matches: ClassMatches


class _Evaluator(COCOeval):
    """pycocotools', passing over pictures where nothing of a size lies: they add nothing."""

    def evaluateImg(  # noqa: N802
        self, image: int, category: int, areas: Sequence[float], most: int
    ) -> Any:
        things = (*self._gts[image, category], *self._dts[image, category])
        if not any(areas[0] <= thing["area"] <= areas[1] for thing in things):
            return None
        return super().evaluateImg(image, category, areas, most)


def _evaluated(
    split: Split, category: int, objects: Records, detections: Records, iou_type: IouType
) -> _Evaluated:
    """One class at a time, because what pycocotools keeps of each picture is large."""
    evaluator = _Evaluator(_indexed(split, objects), _indexed(split, detections), iou_type)
    evaluator.params.catIds = [category]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
    found = evaluator.eval
    all_sizes = evaluator.evalImgs[: len(split.images)]
    return _Evaluated(found["precision"], found["recall"], _class_matches(all_sizes))


def _summary(precision: Array, recall: Array, iou_type: IouType) -> dict[str, float | None]:
    """The twelve numbers by pycocotools' own formula, over all classes."""
    evaluator = COCOeval(iouType=iou_type)
    evaluator.eval = {"precision": precision, "recall": recall}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.summarize()
    return {name: _known(value) for name, value in zip(SUMMARY, evaluator.stats, strict=True)}


def _ap(precision: Array, place: int, area: int) -> float | None:
    values = precision[:, :, place, area, -1]
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _class_matches(per_picture: Sequence[Mapping[str, Any] | None]) -> ClassMatches:
    met = [(n, e) for n, e in enumerate(per_picture) if e is not None]
    objects = np.zeros(len(per_picture), np.int64)
    for number, entry in met:
        objects[number] = np.sum(np.asarray(entry["gtIgnore"]) == 0)
    found = [e["dtMatches"] > 0 for _, e in met] or [np.zeros((len(THRESHOLDS), 0), bool)]
    ignored = [e["dtIgnore"] > 0 for _, e in met] or found
    scores = np.array([value for _, e in met for value in e["dtScores"]])
    order = np.argsort(-scores, kind="mergesort")  # as pycocotools breaks ties
    return ClassMatches(
        score=scores[order],
        picture=np.array([n for n, e in met for _ in e["dtScores"]], np.int64)[order],
        found=np.concatenate(found, axis=1)[:, order],
        counted=~np.concatenate(ignored, axis=1)[:, order],
        objects=objects,
    )


def _by_class(
    split: Split, iou_type: IouType, results: Sequence[Result]
) -> tuple[dict[int, Records], dict[int, Records]]:
    objects: dict[int, Records] = {}
    for image in split.images:
        for a in split.annotations[image.id]:
            record = _truth_record(a, iou_type, (image.height, image.width))
            objects.setdefault(a.category_id, []).append(record)
    detections: dict[int, Records] = {}
    for number, result in enumerate(results, start=1):
        record = {**_detected_record(result, iou_type), "id": number, "iscrowd": 0}
        detections.setdefault(result["category_id"], []).append(record)
    return objects, detections


def _truth_record(a: Annotation, iou_type: IouType, size: tuple[int, int]) -> dict[str, Any]:
    record = {
        "id": a.id,
        "image_id": a.image_id,
        "category_id": a.category_id,
        "bbox": list(a.bbox_xywh),
        "area": a.area,
        "iscrowd": a.iscrowd,
    }
    if iou_type == "segm":
        segmentation = a.segmentation or [_rectangle(a.bbox_xywh)]
        record["segmentation"] = segmentation_to_rle(segmentation, *size)
        # pycocotools ignores crowd regions: what falls into one counts neither way.
        record["iscrowd"] = int(a.iscrowd or not a.segmentation)
    return record


def _detected_record(result: Result, iou_type: IouType) -> dict[str, Any]:
    # COCO.loadRes raises on an empty list and takes a mask's size from its box.
    record = {key: result[key] for key in ("image_id", "category_id", "score")}
    if iou_type == "bbox":
        return {**record, "bbox": result["bbox"], "area": result["bbox"][2] * result["bbox"][3]}
    rle = result["segmentation"]
    return {**record, "segmentation": rle, "bbox": rle_bbox_xywh(rle), "area": rle_area(rle)}


def _indexed(split: Split, annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i.id, "height": i.height, "width": i.width} for i in split.images],
        "categories": [{"id": c.id, "name": c.name} for c in split.categories],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _annotations(split: Split) -> list[Annotation]:
    return [a for annotations in split.annotations.values() for a in annotations]


def _rectangle(bbox_xywh: tuple[float, float, float, float]) -> list[float]:
    x, y, w, h = bbox_xywh
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def _known(value: float) -> float | None:
    # pycocotools writes -1 where there is nothing to measure.
    return None if value == -1 else float(value)
