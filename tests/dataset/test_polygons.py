"""Masks as polygons, against what pycocotools draws from them."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as mask_utils
from scipy.ndimage import gaussian_filter

from segtune.dataset.masks import mask_to_rle, segmentation_to_rle
from segtune.dataset.polygons import MIN_IOU, TOLERANCE, mask_polygons

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def blobs(seed: int) -> np.ndarray:
    """Smooth regions, with holes and without."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.normal(size=(40, 60)), rng.uniform(1, 5))
    return noise > np.quantile(noise, rng.uniform(0.2, 0.9))


@settings(deadline=None)
@given(mask=MASKS)
def test_any_mask_becomes_simple_polygons_that_draw_it_again(mask: np.ndarray) -> None:
    rle = mask_to_rle(mask)
    polygons = mask_polygons(rle)
    assert bool(polygons) == bool(mask.any())
    assert all(shapely.linearrings(np.reshape(p, (-1, 2))).is_simple for p in polygons)
    if polygons:
        drawn = segmentation_to_rle(polygons, *mask.shape)
        assert mask_utils.iou([drawn], [rle], [0])[0, 0] >= MIN_IOU


@pytest.mark.parametrize("seed", range(20))
def test_the_outline_stays_within_the_tolerance(seed: int) -> None:
    mask = blobs(seed)
    polygons = mask_polygons(mask_to_rle(mask))
    drawn = shapely.union_all([shapely.Polygon(np.reshape(p, (-1, 2))) for p in polygons])
    y, x = np.nonzero(mask)
    exact = shapely.union_all(shapely.box(x, y, x + 1, y + 1))
    assert shapely.area(drawn.symmetric_difference(exact)) < TOLERANCE * exact.length
    assert drawn.boundary.hausdorff_distance(exact.boundary) < 2 * TOLERANCE


def test_a_diagonal_edge_becomes_a_line() -> None:
    (polygon,) = mask_polygons(mask_to_rle(np.tri(100, dtype=bool)))
    assert len(polygon) <= 12  # numbers


def test_a_hole_stays_a_hole() -> None:
    mask = np.zeros((50, 60), bool)
    mask[5:45, 10:50] = True
    mask[15:35, 20:41] = False
    polygons = mask_polygons(mask_to_rle(mask))
    assert len(polygons) == 2
    assert segmentation_to_rle(polygons, 50, 60) == mask_to_rle(mask)


def test_regions_that_touch_at_a_corner_are_two_polygons() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:10, 2:10] = mask[10:18, 10:18] = True
    assert len(mask_polygons(mask_to_rle(mask))) == 2
