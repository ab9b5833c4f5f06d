"""Masks: bitwise identical to those of pycocotools; damaged RLEs are recognized."""

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as mask_utils

from segtune.dataset.masks import (
    box_to_polygon,
    decode_rle_counts,
    mask_to_rle,
    rle_area,
    rle_bbox_xywh,
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


def run_lengths(mask: Any) -> list[int]:
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
    assert decode_rle_counts(mask_to_rle(mask)["counts"]) == run_lengths(mask)


def test_long_runs_take_several_characters() -> None:
    mask = np.zeros((400, 500), np.uint8)
    mask[:, 450] = 1
    assert decode_rle_counts(mask_to_rle(mask)["counts"]) == [180_000, 400, 19_600]


@given(st.text(max_size=12))
def test_any_text_is_decoded_or_refused(counts: str) -> None:
    runs = decode_rle_counts(counts)
    assert runs is None or all(isinstance(run, int) for run in runs)
    if any(not 48 <= ord(character) < 112 for character in counts):
        assert runs is None


def test_counts_that_end_within_a_number_are_refused() -> None:
    counts = mask_to_rle(np.zeros((40, 50), np.uint8))["counts"]
    assert decode_rle_counts(counts) == [2000]
    assert decode_rle_counts(counts[:-1]) is None


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
