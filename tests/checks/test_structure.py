"""Structure of a split: which numbers and ids are just right, and which are not."""

from dataclasses import replace
from pathlib import Path

import pytest

from segtune.checks.structure import structure_findings
from segtune.dataset.coco import Annotation, Category, Image, Split
from tests.scenes import box_only

WIDTH, HEIGHT = 60, 40  # pixels
DISC = Category(1, "disc", "disc")
OBJECT = box_only(1, 1, 1, (5, 5, 9, 9))


def split_of(
    *objects: Annotation,
    images: tuple[Image, ...] = (Image(1, "1.jpg", WIDTH, HEIGHT),),
    categories: tuple[Category, ...] = (DISC,),
) -> Split:
    found = {image.id: tuple(a for a in objects if a.image_id == image.id) for image in images}
    return Split("train", Path(), categories, images, found)


def found(split: Split) -> list[tuple[str, str]]:
    return [(rule, place.text) for rule, place in structure_findings([split])]


@pytest.mark.parametrize(
    ("box", "is_outside"),
    [
        ((0.0, 0.0, WIDTH, HEIGHT), False),
        # Sums of floating-point numbers differ from the size of the image by less than this.
        ((-0.0005, -0.0005, WIDTH, HEIGHT), False),
        ((0.0005, 0.0005, WIDTH, HEIGHT), False),
        ((-0.01, 0.0, 9.0, 9.0), True),
        ((0.0, -0.01, 9.0, 9.0), True),
        ((0.01, 0.0, WIDTH, 9.0), True),
        ((0.0, 0.01, 9.0, HEIGHT), True),
    ],
)
def test_a_box_may_reach_the_edge_on_each_side(
    box: tuple[float, float, float, float], is_outside: bool
) -> None:
    rules = [rule for rule, _ in found(split_of(replace(OBJECT, bbox_xywh=box)))]
    assert rules == ["structure-box-outside"] * is_outside


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"area": 0.0}, []),
        ({"area": float("inf")}, ["structure-area-invalid"]),
        ({"iscrowd": 1}, []),
        ({"iscrowd": -1}, ["structure-iscrowd-invalid"]),
        ({"bbox_xywh": (5.0, 5.0, 9.0, float("inf"))}, ["structure-box-not-finite"]),
    ],
)
def test_numbers_at_the_limit(changes: dict[str, object], rules: list[str]) -> None:
    changed = replace(OBJECT, **changes)  # type: ignore[arg-type]
    assert [rule for rule, _ in found(split_of(changed))] == rules


@pytest.mark.parametrize("kind", ["image", "object", "class"])
def test_ids_of_each_kind_are_positive_and_distinct(kind: str) -> None:
    first = Image(1, "1.jpg", WIDTH, HEIGHT)
    images: tuple[Image, ...] = (first,)
    objects: tuple[Annotation, ...] = (OBJECT,)
    categories: tuple[Category, ...] = (DISC,)
    if kind == "image":
        images = (first, replace(first, file_name="2.jpg"), Image(0, "3.jpg", WIDTH, HEIGHT))
    elif kind == "object":
        objects = (OBJECT, OBJECT, replace(OBJECT, id=0))
    else:
        categories = (DISC, replace(DISC, name="ring"), replace(DISC, id=0))
    assert found(split_of(*objects, images=images, categories=categories)) == [
        ("structure-id-duplicate", f"train: {kind} 1"),
        ("structure-id-invalid", f"train: {kind} 0"),
    ]
