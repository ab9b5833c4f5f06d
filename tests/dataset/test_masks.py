"""Masks: bitwise identical to those of pycocotools; damaged RLEs are recognized."""

import json
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as mask_utils

from segtune.dataset.masks import (
    box_to_polygon,
    mask_to_rle,
    require_drawable,
    rle_area,
    rle_bbox_xywh,
    run_lengths,
    segmentation_to_mask,
    segmentation_to_rle,
)

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
        box = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert rle_bbox_xywh(rle) == tuple(float(value) for value in box)


def test_booleans_and_any_memory_order_are_masks_too() -> None:
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    for version in (mask, np.asfortranarray(mask), mask.astype(np.uint8)):
        assert mask_to_rle(version) == mask_to_rle(mask)


def runs_of(mask: Any) -> list[int]:
    """Column by column, starting with a run of zeros, as COCO counts them."""
    pixels = mask.ravel(order="F").tolist()
    runs, value = [0], 0
    for pixel in pixels:
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@settings(max_examples=80, deadline=None)
@given(mask=MASKS | arrays(np.uint8, st.just((90, 70)), elements=st.integers(0, 1)))
def test_decoded_counts_are_the_run_lengths(mask: Any) -> None:
    assert run_lengths(mask_to_rle(mask), *mask.shape).tolist() == runs_of(mask)


def test_long_runs_take_several_characters() -> None:
    mask = np.zeros((400, 500), np.uint8)
    mask[:, 450] = 1
    assert run_lengths(mask_to_rle(mask), 400, 500).tolist() == [180_000, 400, 19_600]


@settings(max_examples=300, deadline=None)
@given(counts=st.text(max_size=12) | st.text("01234567890:;<=>?@ABCOPQRSTTo", max_size=6))
def test_any_text_is_decoded_or_refused(counts: str) -> None:
    try:
        runs = run_lengths({"size": [3, 4], "counts": counts}, 3, 4)
    except ValueError:
        return
    # Whatever passes, pycocotools reads as the same runs.
    assert runs.min() >= 0 and runs.sum() == 12
    mask = mask_utils.decode({"size": [3, 4], "counts": counts})
    colors = np.arange(len(runs)) % 2
    assert np.array_equal(mask.ravel(order="F"), np.repeat(colors, runs))


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (None, "RLE without a size"),
        ({"counts": [1200]}, "RLE without a size"),
        ({"size": [30, 40]}, "not run lengths"),
        ({"size": [40, 30], "counts": [1200]}, r"size \[40, 30\], but the image's is \[30, 40\]"),
        ({"size": [30, 40], "counts": [1199]}, "RLE of 1199 pixels, but the image has 1200"),
        ({"size": [30, 40], "counts": []}, "not run lengths"),
        ({"size": [30, 40], "counts": [-1, 1201]}, "not run lengths"),
        ({"size": [30, 40], "counts": [10**30]}, "not run lengths"),
        ({"size": [30, 40], "counts": [2**32 + 1200]}, "not run lengths"),
        ({"size": [30, 40], "counts": [True, 1199]}, "not run lengths"),
        ({"size": [30, 40], "counts": [600.0, 600.0]}, "not run lengths"),
        ({"size": [30, 40], "counts": "\ud800"}, "not run lengths"),
        ({"size": [30, 40], "counts": "P"}, "not run lengths"),
        ({"size": [30, 40], "counts": "oooooooooo5"}, "not run lengths"),
    ],
)
def test_a_damaged_rle_is_refused(rle: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_lengths(rle, 30, 40)


def test_run_lengths_take_linear_time() -> None:
    # Decoded digit by digit into one number, this takes minutes.
    began = time.monotonic()
    for counts in ("o" * 3_000_000, "0" * 3_000_000, [0] * 3_000_000):
        with pytest.raises(ValueError, match=r"not run lengths|RLE of 0 pixels"):
            run_lengths({"size": [30, 40], "counts": counts}, 30, 40)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("polygons", "message"),
    [
        ([[0, 0, 1e9, 0, 0, 1e9]], "coordinates beyond 1e"),
        ([[0, 0, float("nan"), 0, 0, 5]], "coordinates beyond 1e"),
        ([[0, 0, 1e6, 0, 0, 1e6] * 400], "an outline of"),
        ([[0, 0, 900, 0, 0, 900]] * 2000, "an outline of"),
        ([[1, 2, 3, 4]], "fewer than three points or an odd number"),
        ([[1, 2, 3, 4, 5, 6, 7]], "fewer than three points or an odd number"),
        ([[1, 2, 3, 4, 5, "6"]], "not a list of numbers"),
        ([[1, 2, 3, 4, 5, True]], "not a list of numbers"),
        ([[1, 2, 3, 4, 5, 10**400]], "not a list of numbers"),
        ([[[1, 2], [3, 4], [5, 6]]], "not a list of numbers"),
        (["123456"], "not a list of numbers"),
        ([{"a": 1}], "not a list of numbers"),
    ],
)
def test_polygons_that_cannot_be_drawn_are_refused(polygons: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_drawable(polygons)


def test_many_parts_are_united_like_few() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 90, (700, 2))
    parts = [box_to_polygon((float(x), float(y), 9.0, 7.0)) for x, y in corners]
    require_drawable(parts)
    expected = mask_utils.merge(mask_utils.frPyObjects(parts, 100, 100))
    assert segmentation_to_rle(parts, 100, 100)["counts"] == expected["counts"].decode()


def test_parts_of_a_polygon_are_united() -> None:
    parts = [[1.0, 1.0, 6.0, 1.0, 6.0, 6.0, 1.0, 6.0], [4.0, 4.0, 9.0, 4.0, 9.0, 9.0, 4.0, 9.0]]
    each = [mask_utils.decode(mask_utils.frPyObjects([part], 12, 14)[0]) for part in parts]
    united = segmentation_to_mask(parts, 12, 14)
    assert np.array_equal(united, each[0] | each[1])


def test_the_polygon_of_a_box_fills_the_box() -> None:
    expected = np.zeros((20, 30), np.uint8)
    expected[3:7, 2:12] = 1
    polygon = box_to_polygon((2.0, 3.0, 10.0, 4.0))
    assert np.array_equal(segmentation_to_mask([polygon], 20, 30), expected)


TRIANGLES = st.lists(
    st.lists(st.floats(-8, 40, allow_nan=False, width=32), min_size=6, max_size=6), min_size=1
)


@settings(max_examples=60, deadline=None)
@given(parts=TRIANGLES)
def test_polygons_and_their_rle_are_one_mask(parts: list[list[float]]) -> None:
    mask = segmentation_to_mask(parts, 20, 30)
    rle = segmentation_to_rle(parts, 20, 30)
    each = [mask_utils.decode(one) for one in mask_utils.frPyObjects(parts, 20, 30)]
    assert np.array_equal(mask, np.bitwise_or.reduce(each))
    assert np.array_equal(segmentation_to_mask(rle, 20, 30), mask)
    assert rle_area(rle) == mask.sum()
