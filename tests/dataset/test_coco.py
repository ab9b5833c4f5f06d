"""The canonical dataset, and masks that are pycocotools' to the bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as mask_utils

from segtune.core.errors import DatasetError
from segtune.dataset.coco import read_split
from segtune.dataset.masks import (
    mask_to_rle,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_mask,
    segmentation_to_rle,
)
from tests.converted import SIDE, write_converted

MASKS = arrays(
    np.uint8,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24),
    elements=st.integers(0, 1),
)


@settings(max_examples=80, deadline=None)
@given(mask=MASKS)
def test_a_mask_survives_rle(mask: Any) -> None:
    rle = mask_to_rle(mask)
    assert json.loads(json.dumps(rle)) == rle
    assert np.array_equal(segmentation_to_mask(rle, *mask.shape), mask)
    assert rle_area(rle) == mask.sum()
    assert segmentation_to_rle(rle, *mask.shape) == rle
    if mask.any():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert rle_bbox_xywh(rle) == box


def test_booleans_and_any_memory_order_are_masks_too() -> None:
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    for version in (mask, np.asfortranarray(mask), mask.astype(np.uint8)):
        assert mask_to_rle(version) == mask_to_rle(mask)


def test_parts_of_a_polygon_are_united() -> None:
    parts = [[1.0, 1.0, 6.0, 1.0, 6.0, 6.0, 1.0, 6.0], [4.0, 4.0, 9.0, 4.0, 9.0, 9.0, 4.0, 9.0]]
    each = [mask_utils.decode(mask_utils.frPyObjects([part], 12, 14)[0]) for part in parts]
    united = segmentation_to_mask(parts, 12, 14)
    assert np.array_equal(united, each[0] | each[1])


TRIANGLES = st.lists(
    st.lists(st.floats(-8, 40, allow_nan=False, width=32), min_size=6, max_size=6), min_size=1
)


@settings(max_examples=60, deadline=None)
@given(parts=TRIANGLES)
def test_polygons_and_the_rle_of_them_are_one_mask(parts: list[list[float]]) -> None:
    mask = segmentation_to_mask(parts, 20, 30)
    rle = segmentation_to_rle(parts, 20, 30)
    each = [mask_utils.decode(one) for one in mask_utils.frPyObjects(parts, 20, 30)]
    assert np.array_equal(mask, np.bitwise_or.reduce(each))
    assert np.array_equal(segmentation_to_mask(rle, 20, 30), mask)
    assert rle_area(rle) == mask.sum()


def test_a_split_is_read_as_it_was_written(tmp_path: Path) -> None:
    split = read_split(write_converted(tmp_path) / "train.json")
    assert split.name == "train"
    assert [c.prompt for c in split.categories] == ["disc", "square", "cross"]
    assert split.annotations.keys() == {image.id for image in split.images}
    assert all(split.image_path(image).is_file() for image in split.images)
    first = split.annotations[1][0]
    assert segmentation_to_mask(first.segmentation or [], SIDE, SIDE).sum() == first.area
    boxes = read_split(write_converted(tmp_path / "b", masks=False) / "train.json")
    assert boxes.annotations[1][0].segmentation is None


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.json", None, "cannot be read.*Run segtune.convert first"),
        ("train.json", "{", "cannot be read"),
        ("train.json", "{}", "not a converted dataset"),
        ("train.json", '{"images": [{"id": 1}]}', "not a converted dataset"),
        ("manifest.json", None, "cannot be read"),
        ("manifest.json", "[]", "not a converted dataset"),
    ],
)
def test_a_damaged_dataset_is_an_error(
    tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    coco = write_converted(tmp_path)
    (coco / file).unlink()
    if content is not None:
        (coco / file).write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_split(coco / "train.json")
