"""Objects that are labeled twice are found without comparing all pairs."""

import numpy as np
import pytest

from segtune.checks.objects import duplicates
from segtune.dataset.coco import Annotation, Image
from tests.scenes import box_only

IMAGE = Image(1, "1.jpg", 400, 300)


def iou(one: Annotation, other: Annotation) -> float:
    (x1, y1, w1, h1), (x2, y2, w2, h2) = one.bbox_xywh, other.bbox_xywh
    w = min(x1 + w1, x2 + w2) - max(x1, x2)
    h = min(y1 + h1, y2 + h2) - max(y1, y2)
    shared = max(0.0, w) * max(0.0, h)
    return shared / (w1 * h1 + w2 * h2 - shared)


def by_all_pairs(objects: list[Annotation], min_iou: float) -> set[int]:
    kept: list[Annotation] = []
    for a in objects:
        same = (other for other in kept if other.category_id == a.category_id)
        if all(iou(a, other) < min_iou for other in same):
            kept.append(a)
    return {a.id for a in objects} - {a.id for a in kept}


@pytest.mark.parametrize("min_iou", [0.5, 0.7, 0.9])
def test_buckets_find_what_all_pairs_find(min_iou: float) -> None:
    rng = np.random.default_rng(0)
    objects: list[Annotation] = []
    for number in range(1, 601):
        # From a pixel to a third of the image, thin and thick; every second one near another.
        x, y, w, h = (*rng.uniform(0, 250, 2), *(2 ** rng.uniform(0, 7, 2)))
        if objects and number % 2:
            x, y, w, h = objects[rng.integers(len(objects))].bbox_xywh
            far = rng.uniform(0, 0.2)
            x, y = x + rng.normal(0, far) * w, y + rng.normal(0, far) * h
            w, h = w * rng.uniform(1 - far, 1 + far), h * rng.uniform(1 - far, 1 + far)
        objects.append(box_only(number, 1, int(rng.integers(1, 3)), (x, y, w, h)))
    found = {other.id for _, other, _ in duplicates(objects, IMAGE, min_iou)}
    assert found == by_all_pairs(objects, min_iou)
    assert len(found) > 20
