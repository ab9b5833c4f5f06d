"""Predictions as labels, and what is read of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segtune.core.errors import DatasetError
from segtune.dataset.coco import Category, Image, Split
from segtune.dataset.labels import read_labels, write_labels
from segtune.dataset.masks import mask_to_rle, rle_area, rle_bbox_xywh, segmentation_to_rle

HEIGHT, WIDTH = 40, 60
SPLIT = Split(
    name="photos",
    root=Path("photos"),
    categories=(Category(1, "crack", "a crack"), Category(2, "hole", "hole")),
    images=(Image(1, "a.jpg", WIDTH, HEIGHT), Image(2, "deep/b.png", WIDTH, HEIGHT)),
    annotations={1: (), 2: ()},
)


def record(image: int, category: int, score: float, left: int, width: int = 12) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, left : left + width] = True
    rle = mask_to_rle(mask)
    return {"image_id": image, "category_id": category, "score": score, "segmentation": rle}


def written(path: Path, *records: dict[str, Any]) -> Path:
    write_labels(path / "labels.json", SPLIT, records)
    return path / "labels.json"


def test_labels_are_read_as_they_were_written(tmp_path: Path) -> None:
    records = [record(1, 1, 0.9, 5), record(1, 2, 0.8, 30), record(2, 2, 0.7, 5)]
    split, scores = read_labels(written(tmp_path, *records), Path("photos"))
    assert (split.images, split.categories) == (SPLIT.images, SPLIT.categories)
    assert [(a.image_id, a.category_id) for a in split.objects] == [(1, 1), (1, 2), (2, 2)]
    assert list(scores.values()) == [0.9, 0.8, 0.7]
    for a, expected in zip(split.objects, records, strict=True):
        assert a.segmentation and isinstance(a.segmentation, list)
        drawn = segmentation_to_rle(a.segmentation, HEIGHT, WIDTH)
        assert drawn == expected["segmentation"]
        assert (a.bbox_xywh, a.area) == (rle_bbox_xywh(drawn), rle_area(drawn))


def test_an_object_that_is_found_twice_is_labeled_once(tmp_path: Path) -> None:
    twice = [record(1, 1, 0.6, 5), record(1, 1, 0.9, 6), record(1, 1, 0.7, 25)]
    others = [record(1, 2, 0.5, 5), record(2, 1, 0.4, 5)]
    _, scores = read_labels(written(tmp_path, *twice, *others), Path("photos"))
    assert list(scores.values()) == [0.9, 0.7, 0.5, 0.4]


def test_an_empty_mask_is_left_out(tmp_path: Path) -> None:
    values = json.loads(written(tmp_path, record(1, 1, 0.9, 5, width=0)).read_text())
    assert values["annotations"] == []


Values = dict[str, Any]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda v: v.pop("images"), "not a COCO dataset of predictions"),
        (lambda v: v["annotations"][0].update(image_id=9), "not a COCO dataset of predictions"),
        (lambda v: v["annotations"][0].update(category_id=9), "annotation 1: category_id 9"),
        (lambda v: v["annotations"][0].update(score="x"), "annotation 1: the score 'x'"),
        (lambda v: v["annotations"][0].update(segmentation=[[1, 2]]), "annotation 1: "),
        (lambda v: v["annotations"].append(v["annotations"][0]), "annotation 1: id 1 is a dup"),
    ],
)
def test_damaged_labels_name_the_record(
    tmp_path: Path, damage: Callable[[Values], object], message: str
) -> None:
    path = written(tmp_path, record(1, 1, 0.9, 5))
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    with pytest.raises(DatasetError) as raised:
        read_labels(path, Path("photos"))
    assert str(path) in str(raised.value)
    assert message in str(raised.value)
