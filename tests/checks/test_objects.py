"""Objects that are labeled twice are found without comparing all pairs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segtune.checks.objects import duplicates, object_findings
from segtune.core.validate_settings import ValidateLimits
from segtune.dataset.coco import Annotation, Category, Image, Split
from segtune.dataset.tiles import Tiles
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


def found(
    *objects: Annotation, queries: int = 9, tiles: Tiles | None = None, **limits: float
) -> list[tuple[str, str]]:
    split = Split("train", Path(), (Category(1, "disc", "disc"),), (IMAGE,), {1: objects})
    checked = ValidateLimits.model_validate(limits)
    findings = object_findings([split], checked, queries=queries, input_pixels=200, tiles=tiles)
    return [(rule, place.text.partition(", ")[2]) for rule, place in findings]


def test_as_many_objects_as_queries_can_be_detected() -> None:
    objects = [box_only(n, 1, 1, (20 * n, 5, 15, 15)) for n in range(1, 5)]
    assert found(*objects, queries=4) == []
    text = "4 of disc, but the model has 3 queries"
    assert found(*objects, queries=3) == [("object-crowded", text)]
    # A crowd is not one of the objects that are to be detected.
    assert found(*objects[1:], replace(objects[0], iscrowd=1), queries=3) == []


def test_with_tiles_objects_count_as_they_are_there() -> None:
    objects = [box_only(n, 1, 1, (60 * n - 50, 5, 15, 15)) for n in range(1, 5)]
    # Of 400 x 300 pixels, 100 x 100 are the input of 200 x 200.
    tiles = Tiles(100, 0.25)
    assert found(*objects, queries=2, tiles=tiles, min_object_pixels=30) == []
    crowded = "2 of disc, but the model has 1 queries"
    assert found(*objects, queries=1, tiles=tiles) == [("object-crowded", crowded)]
    tiny = [rule for rule, _ in found(*objects, tiles=tiles, min_object_pixels=30.01)]
    assert tiny == ["object-tiny"] * 4


def test_sizes_are_of_the_area_in_the_square_input() -> None:
    # 400 x 300 pixels become 200 x 200: 8 x 24 of them 4 x 16, as large as 8 x 8.
    thin = box_only(1, 1, 1, (5, 5, 8, 24))
    assert found(thin, min_object_pixels=8) == []
    text = "object 1 of disc: about 8.0 x 8.0 pixels of 200"
    assert found(thin, min_object_pixels=8.01) == [("object-tiny", text)]


def test_an_object_is_a_duplicate_of_one_other_of_its_class() -> None:
    box = (5, 5, 40, 40)
    objects = [box_only(n, 1, 1, box) for n in (1, 2, 3)]
    assert found(*objects) == [
        ("object-duplicate", f"object {n} of disc: object 1 again, IoU 1.00") for n in (2, 3)
    ]
    assert found(objects[0], replace(objects[1], category_id=2)) == []


def test_masks_are_compared_unless_one_of_them_is_broken() -> None:
    one, other = (box_only(n, 1, 1, (5, 5, 40, 40)) for n in (1, 2))
    upper = replace(one, segmentation=[[5, 5, 45, 5, 45, 24, 5, 24]])
    lower = replace(other, segmentation=[[5, 25, 45, 25, 45, 45, 5, 45]])
    assert found(upper, lower) == []
    broken = replace(other, segmentation=[[1, 1]])
    text = "object 2 of disc: object 1 again, IoU 1.00"
    assert found(upper, broken) == [("object-duplicate", text)]
