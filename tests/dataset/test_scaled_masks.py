"""Masks at another scale: bitwise identical to a resize of the whole mask, without its cost."""

import time
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from segtune.dataset.masks import Segmentation, mask_to_rle, segmentation_to_mask
from segtune.dataset.scaled_masks import scaled_masks

SIDES = st.sampled_from([1, 7, 24, 33, 96])
SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 70))  # (height, width)


def resized(segmentation: Segmentation, height: int, width: int, side: int) -> torch.Tensor:
    """The plain way: the whole mask as floats, resized by torch."""
    mask = torch.from_numpy(segmentation_to_mask(segmentation, height, width)).float()
    planes = F.interpolate(mask[None, None], (side, side), mode="bilinear", antialias=True)
    return planes[0, 0] >= 0.5


def require_same(segmentation: Segmentation, height: int, width: int, side: int) -> None:
    (mask,) = scaled_masks([segmentation], height=height, width=width, side=side)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, resized(segmentation, height, width, side))


@settings(max_examples=150, deadline=None)
@given(
    mask=arrays(
        np.uint8,
        array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70),
        elements=st.integers(0, 1),
    ),
    side=SIDES,
)
def test_any_pixels(mask: Any, side: int) -> None:
    require_same(mask_to_rle(mask), *mask.shape, side=side)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), shape=SHAPES, side=SIDES)
def test_polygons_of_several_parts_inside_and_beyond_the_borders(
    data: st.DataObject, shape: tuple[int, int], side: int
) -> None:
    number = st.floats(-20, 90)
    part = st.lists(number, min_size=6, max_size=16).filter(lambda values: len(values) % 2 == 0)
    require_same(data.draw(st.lists(part, min_size=1, max_size=4)), *shape, side)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), shape=SHAPES, side=SIDES)
def test_boxes_with_holes_at_every_border(
    data: st.DataObject, shape: tuple[int, int], side: int
) -> None:
    # Straight edges meet the centers of output pixels, where the resize is exactly 1/2.
    mask = np.zeros(shape, np.uint8)
    for value in (1, 0):
        (top, bottom), (left, right) = (
            sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape
        )
        mask[top:bottom, left:right] = value
    require_same(mask_to_rle(mask), *shape, side)


def test_a_single_column_of_the_result() -> None:
    # Of one column, torch's resize adds up in another order; the whole image has 24.
    for height in range(1, 40):
        mask = np.zeros((height, 24), np.uint8)
        mask[::2, 11] = 1
        require_same(mask_to_rle(mask), height, 24, 24)


@pytest.mark.parametrize("height_width", [(640, 640), (1080, 1920), (1999, 3001)])
@pytest.mark.parametrize("side", [480, 1008])
def test_photographs(height_width: tuple[int, int], side: int) -> None:
    height, width = height_width
    angles = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    radii = 1 - 0.4 * np.random.default_rng(side).random(80)
    for fraction, x, y in ((0.3, 0.4, 0.7), (0.02, 0.99, 0.01), (0.1, 0.0, 1.0)):
        outline = [
            width * (x + fraction * radii * np.cos(angles)),
            height * (y + fraction * radii * np.sin(angles)),
        ]
        require_same([np.stack(outline, 1).ravel().tolist()], height, width, side)


def test_every_single_pixel_of_an_image() -> None:
    for side in (2, 5, 17):
        for place in range(35):
            mask = np.zeros(35, np.uint8)
            mask[place] = 1
            require_same(mask_to_rle(mask.reshape(5, 7)), 5, 7, side)


def test_objects_keep_their_order_and_those_without_a_mask_are_empty() -> None:
    square = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
    masks = scaled_masks([None, [square], []], height=10, width=10, side=10)
    assert masks.shape == (3, 10, 10)
    assert masks.flatten(1).sum(1).tolist() == [0, 36, 0]
    assert scaled_masks([], height=10, width=10, side=10).shape == (0, 10, 10)


def test_a_small_object_costs_little_in_a_large_photograph() -> None:
    square = [[2000.0, 1000.0, 2100.0, 1000.0, 2100.0, 1100.0, 2000.0, 1100.0]]

    def seconds(draw: Any) -> float:
        began = time.process_time()
        draw()
        return time.process_time() - began

    quick, whole = (
        min(seconds(draw) for _ in range(3))
        for draw in (
            lambda: scaled_masks([square], height=3000, width=4000, side=1008),
            lambda: resized(square, 3000, 4000, 1008),
        )
    )
    assert quick < whole / 10
