"""Of a large image, a grid of evenly spaced pixels: the same fraction of them is in an object."""

from dataclasses import replace

import numpy as np
import pytest

from segtune.dataset.coco import Image
from segtune.dataset.mask_grid import at_full_size, chosen_pixels, grid_size, on_grid, resampled
from segtune.dataset.masks import mask_to_rle, rle_area, segmentation_to_mask, segmentation_to_rle
from tests.scenes import OBJECTS, box_only, detection, ellipse, split_of

LARGE = (3000, 4000)  # height, width
INPUT = 1008


def test_a_grid_is_at_most_as_large_as_the_image_and_as_what_the_model_sees() -> None:
    large, wide = Image(1, "", LARGE[1], LARGE[0]), Image(2, "", 1920, 600)
    assert grid_size(large, INPUT) == (INPUT, INPUT)
    assert grid_size(wide, INPUT) == (600, INPUT)
    assert grid_size(wide, 96) == (512, 512)  # a miniature sees less than costs anything
    assert grid_size(Image(3, "", 192, 192), 96) == (192, 192)


def test_the_pixels_of_a_grid_are_evenly_spaced_and_centered() -> None:
    for old, new in ((4000, 1008), (1080, 1008), (2016, 1008), (7, 7), (100, 300), (5, 1)):
        places = chosen_pixels(old, new)
        assert len(places) == new and places.min() >= 0 and places.max() < old
        assert abs((places + 0.5).mean() - old / 2) <= 0.5
        assert set(np.diff(places)) <= {old // new, -(-old // new)}
    assert list(chosen_pixels(7, 7)) == list(range(7))


def test_areas_have_no_bias() -> None:
    rng = np.random.default_rng(0)
    small = np.prod(np.divide(INPUT, LARGE))
    ratios = []
    for _ in range(25):
        shape = ellipse(rng.uniform(200, 2800, 2), rng.uniform(60, 150, 2))
        area = rle_area(segmentation_to_rle(shape, *LARGE))
        ratios.append(rle_area(resampled(shape, LARGE, (INPUT, INPUT))) / area / small)
    assert np.mean(ratios) == pytest.approx(1, abs=2e-3)
    assert np.std(ratios) < 0.01


def test_a_split_on_a_grid_has_the_pixels_of_its_masks_and_boxes_to_scale() -> None:
    split = split_of(OBJECTS)
    images = tuple(replace(image, width=1000, height=600) for image in split.images)
    mask = np.zeros((600, 1000), np.uint8)
    mask[100:400, 300:310] = 1
    masked = replace(split.annotations[1][0], segmentation=mask_to_rle(mask))
    boxed = box_only(9, 2, 1, (100, 60, 500, 300))
    grid = on_grid(replace(split, images=images, annotations={1: (masked,), 2: (boxed,)}), 96)
    assert [(image.height, image.width) for image in grid.images] == [(512, 512)] * 2
    (found,), (box,) = grid.annotations[1], grid.annotations[2]
    assert found.segmentation
    expected = mask[np.ix_(chosen_pixels(600, 512), chosen_pixels(1000, 512))]
    assert (segmentation_to_mask(found.segmentation, 512, 512) == expected).all()
    assert box.segmentation is None
    assert box.bbox_xywh == pytest.approx((51.2, 51.2, 256, 256))


def test_small_images_are_as_they_were() -> None:
    split = split_of(OBJECTS)
    assert on_grid(split, 96) == split


def test_what_is_shown_has_the_size_of_its_image() -> None:
    shape = ellipse((2000, 1500), (300, 200))
    found = replace(detection(*OBJECTS[0]), rle=resampled(shape, LARGE, (INPUT, INPUT)))
    shown = at_full_size(found, Image(1, "", LARGE[1], LARGE[0]))
    assert shown.rle["size"] == [*LARGE]
    one, other = (
        segmentation_to_mask(rle, *LARGE) for rle in (shown.rle, segmentation_to_rle(shape, *LARGE))
    )
    assert (one & other).sum() / (one | other).sum() > 0.98
