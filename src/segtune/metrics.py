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
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segtune.bootstrap import ClassMatches
from segtune.coco import Annotation, Split, rle_area, rle_bbox_xywh, segmentation_to_rle

IouType = Literal["bbox", "segm"]
Result = Mapping[str, Any]  # COCO results format: image_id, category_id, bbox, segmentation, score

SUMMARY = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
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
        As `summary` the twelve COCO numbers and `per_class` {name: AP}, None where there is
        nothing to measure; `ignored` counts the box-only objects that mask metrics leave
        out. As `matches` what the bootstrap needs.
    """
    evaluator = COCOeval(_truth(split, iou_type), _detected(split, results, iou_type), iou_type)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # (thresholds, recalls, classes)
    summary = {
        **{name: _known(value) for name, value in zip(SUMMARY, evaluator.stats, strict=True)},
        "per_class": {
            category.name: _known(_mean(precision[:, :, index]))
            for index, category in enumerate(split.categories)
        },
        "ignored": sum(not a.segmentation for a in _annotations(split)) * (iou_type == "segm"),
    }
    return Scored(summary, _matches(evaluator))


def average_precision(split: Split, results: Sequence[Result], iou_type: IouType) -> dict[str, Any]:
    """The `summary` of `score`."""
    return score(split, results, iou_type).summary


def _matches(evaluator: Any) -> tuple[ClassMatches, ...]:
    """Per class, from pycocotools' own matching at all sizes."""
    areas, pictures = len(evaluator.params.areaRng), len(evaluator.params.imgIds)
    return tuple(
        _class_matches(evaluator.evalImgs[index * areas * pictures :][:pictures])
        for index in range(len(evaluator.params.catIds))
    )


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
        picture=np.array([n for n, e in met for _ in e["dtScores"]], np.int64)[order],
        found=np.concatenate(found, axis=1)[:, order],
        counted=~np.concatenate(ignored, axis=1)[:, order],
        objects=objects,
    )


def _truth(split: Split, iou_type: IouType) -> COCO:
    records = [
        _truth_record(a, iou_type, size)
        for image in split.images
        for size in [(image.height, image.width)]
        for a in split.annotations[image.id]
    ]
    return _indexed(split, records)


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


def _detected(split: Split, results: Sequence[Result], iou_type: IouType) -> COCO:
    # COCO.loadRes raises on an empty list and takes a mask's size from its box.
    records = []
    for number, result in enumerate(results, start=1):
        record = {key: result[key] for key in ("image_id", "category_id", "score")}
        if iou_type == "segm":
            rle = result["segmentation"]
            record |= {"segmentation": rle, "bbox": rle_bbox_xywh(rle), "area": rle_area(rle)}
        else:
            record |= {"bbox": result["bbox"], "area": result["bbox"][2] * result["bbox"][3]}
        records.append({**record, "id": number, "iscrowd": 0})
    return _indexed(split, records)


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


def _mean(values: np.ndarray[Any, Any]) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _known(value: float) -> float | None:
    # pycocotools writes -1 where there is nothing to measure.
    return None if value == -1 else float(value)


def false_alarms(split: Split, results: Sequence[Result], score: float) -> dict[str, float]:
    """Per class, the share of pictures without it in which it is detected all the same.

    Args:
        split: the ground truth.
        results: detections in COCO's results format.
        score: a detection counts from this score on.
    """
    fired = {(r["image_id"], r["category_id"]) for r in results if r["score"] >= score}
    shares = {}
    for category in split.categories:
        absent = [
            image.id
            for image in split.images
            if all(a.category_id != category.id for a in split.annotations[image.id])
        ]
        alarms = sum((image_id, category.id) in fired for image_id in absent)
        shares[category.name] = alarms / len(absent) if absent else 0.0
    return shares
