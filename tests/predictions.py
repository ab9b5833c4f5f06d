"""Predictions for the small converted dataset, and their files."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from segtune.dataset.coco import Annotation, read_split
from segtune.dataset.detections import Detection, to_record
from segtune.dataset.masks import segmentation_to_rle
from tests.converted import SIDE

TRIANGLE = [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]  # for objects without a mask


def detected(label: Annotation, score: float = 0.9) -> Detection:
    """The detection that agrees with a label."""
    return Detection(
        image_id=label.image_id,
        category_id=label.category_id,
        score=score,
        bbox_xywh=label.bbox_xywh,
        rle=segmentation_to_rle(label.segmentation or TRIANGLE, SIDE, SIDE),
    )


def perfect(coco: Path, score: float = 0.9) -> list[Detection]:
    """Every object of the test split, as it is labeled."""
    return [detected(label, score) for label in read_split(coco / "test.json").objects]


def shifted(detections: Iterable[Detection], pixels: int) -> list[Detection]:
    """The same squares, boxes and masks alike, further down."""
    moved = []
    for found in detections:
        x, y, w, h = found.bbox_xywh
        square = [[x, y + pixels, x + w, y + pixels, x + w, y + pixels + h, x, y + pixels + h]]
        rle = segmentation_to_rle(square, SIDE, SIDE)
        moved.append(replace(found, bbox_xywh=(x, y + pixels, w, h), rle=rle))
    return moved


def results_text(detections: Iterable[Detection]) -> str:
    """COCO results, as `segtune.predict` writes them for a split."""
    return json.dumps([to_record(found) for found in detections])


def prompted_text(prompts: Sequence[str], detections: Iterable[Detection]) -> str:
    """A COCO dataset with scores, as `segtune.predict --prompt` writes it."""
    categories = [{"id": n, "name": prompt} for n, prompt in enumerate(prompts, start=1)]
    annotations = [to_record(found) for found in detections]
    return json.dumps({"images": [], "categories": categories, "annotations": annotations})
