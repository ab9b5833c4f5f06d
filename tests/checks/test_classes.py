"""Counts of classes: what is just enough, and what is not."""

from pathlib import Path

import pytest

from segtune.checks.classes import class_findings
from segtune.core.validate_settings import ValidateLimits
from segtune.dataset.coco import Annotation, Category, Image, Split
from segtune.dataset.masks import Segmentation

MASK: Segmentation = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]
NAMES = ("disc", "plate")


def split_of(
    counts: dict[int, int], *, name: str = "train", boxes: int = 0, classes: int = 2
) -> Split:
    """So many objects of each class, each in its image, and one without; some are only boxes."""
    numbers = [number for number, count in counts.items() for _ in range(count)]
    images = tuple(Image(n, f"{n}.jpg", 9, 9) for n in range(1, len(numbers) + 2))
    annotations: dict[int, tuple[Annotation, ...]] = {image.id: () for image in images}
    for n, number in enumerate(numbers, start=1):
        mask = None if number == 1 and n <= boxes else MASK
        annotations[n] = (Annotation(n, n, number, (1.0, 1.0, 4.0, 4.0), 8.0, mask, 0),)
    categories = tuple(Category(n, NAMES[n - 1], NAMES[n - 1]) for n in range(1, classes + 1))
    return Split(name, Path(), categories, images, annotations)


def found(*splits: Split, **limits: float) -> list[tuple[str, str]]:
    limits = {"min_class_objects": 0, "min_negative_fraction": 0, **limits}
    return [
        (rule, place.text)
        for rule, place in class_findings(splits, ValidateLimits.model_validate(limits))
    ]


def test_as_many_objects_as_are_advisable_are_enough() -> None:
    train = split_of({1: 4, 2: 3})
    assert found(train, min_class_objects=3) == []
    assert found(train, min_class_objects=4) == [
        ("class-few-objects", "plate: 3, and 4 are advisable")
    ]


def test_imbalance_begins_beyond_the_limit() -> None:
    train = split_of({1: 6, 2: 2})
    assert found(train, max_imbalance=3) == []
    assert found(train, max_imbalance=2.9) == [("class-imbalance", "plate: 2, but disc: 6")]


def test_boxes_are_too_frequent_beyond_the_limit() -> None:
    train = split_of({1: 4, 2: 1}, boxes=1)
    assert found(train, max_box_only_fraction=0.25) == []
    assert found(train, max_box_only_fraction=0.24) == [("class-box-only", "disc: 1 of 4 objects")]


def test_a_split_without_any_mask_is_a_task_of_boxes() -> None:
    assert found(split_of({1: 4}, boxes=4, classes=1), max_box_only_fraction=0.1) == []


@pytest.mark.parametrize(("limit", "is_reported"), [(0.25, False), (0.26, True)])
def test_negatives_are_too_few_below_the_limit(limit: float, is_reported: bool) -> None:
    train = split_of({1: 3}, classes=1)
    text = "train: 1 of 4 images are without it"
    reported = [("class-no-negatives", text)] * is_reported
    assert found(train, min_negative_fraction=limit) == reported
    # Where there are other classes, their images are negatives.
    assert found(split_of({1: 3, 2: 1}), min_negative_fraction=limit) == []


def test_a_split_without_objects_is_not_reported_class_by_class() -> None:
    empty = split_of({}, name="test", classes=1)
    assert found(split_of({1: 3}, classes=1), empty, min_negative_fraction=0.2) == []
    # Of a train split without objects, that is reported.
    assert found(split_of({}), split_of({1: 2}, name="valid")) == []
