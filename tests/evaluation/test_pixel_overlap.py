"""Dice, IoU and boundary IoU: known answers, and plain pixels as oracle."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion

from segtune.dataset.coco import Annotation, Split
from segtune.dataset.masks import segmentation_to_mask
from segtune.evaluation.pixel_overlap import eroded, overlaps, pixel_counts
from tests.evaluation.test_average_precision import OBJECTS, detection, random_case, split_of

HALF = {1: 0.5, 2: 0.5}


def measured(split: Split, results: list[dict[str, Any]]) -> dict[str, list[float]]:
    values = overlaps(pixel_counts(split, results, HALF).sum(0))
    return {name: found.tolist() for name, found in values.items()}


def test_perfect_masks_are_1_and_none_are_0() -> None:
    split = split_of(OBJECTS)
    perfect = measured(split, [detection(*o) for o in OBJECTS])
    assert perfect == {name: [1.0, 1.0] for name in ("dice", "iou", "boundary_iou")}
    assert measured(split, []) == {name: [0.0, 0.0] for name in ("dice", "iou", "boundary_iou")}


def test_half_of_an_object_is_half_of_its_pixels() -> None:
    split = split_of([(1, 1, (10, 10, 40, 40))])
    found = measured(split, [detection(1, 1, (10, 10, 20, 40))])
    assert found["iou"][0] == pytest.approx(1 / 2)
    assert found["dice"][0] == pytest.approx(2 / 3)
    assert np.isnan(found["dice"][1])
    with_stray = [detection(1, 1, (10, 10, 20, 40)), detection(1, 2, (10, 10, 9, 9))]
    assert np.isnan(measured(split, with_stray)["dice"][1])  # a false alarm, no overlap


def test_detections_are_united_and_counted_from_the_threshold_on() -> None:
    split = split_of([(1, 1, (10, 10, 40, 40))])
    halves = [detection(1, 1, (10, 10, 25, 40)), detection(1, 1, (25, 10, 25, 40))]
    unsure = detection(1, 1, (60, 60, 20, 20), score=0.4)
    assert measured(split, [*halves, unsure])["iou"][0] == 1.0
    low = overlaps(pixel_counts(split, [*halves, unsure], {1: 0.3, 2: 0.5}).sum(0))
    assert low["iou"][0] == pytest.approx(1600 / 2000)


def test_a_class_with_an_unknown_mask_is_left_out_on_that_image() -> None:
    split = split_of(OBJECTS)
    box_only = Annotation(9, 1, 1, (60.0, 60.0, 30.0, 30.0), 900.0, None, 0)
    split = replace(split, annotations={**split.annotations, 1: (box_only,)})
    found = measured(split, [detection(1, 1, (60, 60, 30, 30)), detection(*OBJECTS[1])])
    assert np.isnan(found["iou"][0])
    assert found["iou"][1] == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_plain_pixels_agree(seed: int) -> None:
    split, results = random_case(seed)
    found = measured(split, results)
    width = 3  # 2 % of the diagonal of 100 x 100 pixels
    for place, category in enumerate((1, 2)):
        sums = np.zeros(5)
        for image in split.images:
            shapes = [
                [
                    segmentation_to_mask(s, 100, 100).astype(bool)
                    for s in segmentations
                ]
                for segmentations in (
                    [
                        r["segmentation"]
                        for r in results
                        if (r["image_id"], r["category_id"]) == (image.id, category)
                        and r["score"] >= 0.5
                    ],
                    [
                        a.segmentation
                        for a in split.annotations[image.id]
                        if a.segmentation and a.category_id == category
                    ],
                )
            ]  # fmt: skip
            seen, there = (np.any([np.zeros((100, 100), bool), *s], axis=0) for s in shapes)
            rims = [
                m & ~binary_erosion(m, np.ones((3, 3)), iterations=width) for m in (seen, there)
            ]
            sums += [
                (seen & there).sum(),
                seen.sum(),
                there.sum(),
                (rims[0] & rims[1]).sum(),
                (rims[0] | rims[1]).sum(),
            ]
        both, seen_area, there_area, rim_both, rim_any = sums
        assert found["iou"][place] == pytest.approx(both / (seen_area + there_area - both))
        assert found["dice"][place] == pytest.approx(2 * both / (seen_area + there_area))
        assert found["boundary_iou"][place] == pytest.approx(rim_both / rim_any)


@given(
    arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.booleans()),
    st.integers(1, 9),
)
@settings(max_examples=200)
def test_erosion_is_scipys(mask: Any, width: int) -> None:
    # Random noise would vanish at once.
    mask = mask | np.roll(mask, 1, 0) | np.roll(mask, 1, 1) | np.roll(mask, 2, 0)
    expected = binary_erosion(mask, np.ones((3, 3)), iterations=width)
    assert np.array_equal(eroded(mask, width), expected)


def test_a_sloppy_outline_shows_at_the_rim_alone() -> None:
    split = split_of([(1, 1, (10, 10, 80, 80))])
    found = measured(split, [detection(1, 1, (12, 12, 76, 76))])
    assert found["iou"][0] > 0.9
    assert found["boundary_iou"][0] < 0.5
