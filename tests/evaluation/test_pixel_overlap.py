"""Dice, IoU and boundary IoU: known answers, and arrays of pixels as oracle."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion

from segtune.dataset.coco import Split
from segtune.dataset.detections import Detection, Detections
from segtune.dataset.masks import Segmentation, segmentation_to_mask
from segtune.evaluation.pixel_overlap import eroded, overlap_values, pixel_counts
from tests.scenes import OBJECTS, SIDE, box_only, detection, random_case, split_of

HALF = {1: 0.5, 2: 0.5}


def measured(split: Split, found: Sequence[Detection]) -> dict[str, list[float]]:
    values = overlap_values(pixel_counts(split, Detections(found), HALF).sum(0))
    return {name: per_class.tolist() for name, per_class in values.items()}


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
    assert np.isnan(measured(split, with_stray)["dice"][1])  # a false alarm, not an overlap


def test_detections_above_the_threshold_are_united() -> None:
    split = split_of([(1, 1, (10, 10, 40, 40))])
    halves = [detection(1, 1, (10, 10, 25, 40)), detection(1, 1, (25, 10, 25, 40))]
    unsure = detection(1, 1, (60, 60, 20, 20), score=0.4)
    assert measured(split, [*halves, unsure])["iou"][0] == 1.0
    low = pixel_counts(split, Detections([*halves, unsure]), {1: 0.3, 2: 0.5})
    assert overlap_values(low.sum(0))["iou"][0] == pytest.approx(1600 / 2000)


def test_a_class_with_an_unknown_mask_is_left_out_of_that_image() -> None:
    split = split_of(OBJECTS)
    unknown = box_only(9, 1, 1, (60, 60, 30, 30))
    split = replace(split, annotations={**split.annotations, 1: (unknown,)})
    found = measured(split, [detection(1, 1, (60, 60, 30, 30)), detection(*OBJECTS[1])])
    assert np.isnan(found["iou"][0])
    assert found["iou"][1] == 1.0


def united(segmentations: Sequence[Segmentation | None]) -> Any:
    masks = [segmentation_to_mask(s, SIDE, SIDE).astype(bool) for s in segmentations if s]
    return np.any([np.zeros((SIDE, SIDE), bool), *masks], axis=0)


def counted(predicted: Any, truth: Any) -> list[int]:
    """The pixels of two masks, of their rims and of what these have in common."""
    width = 3  # 2% of the diagonal of 100 x 100 pixels
    rims = [m & ~binary_erosion(m, np.ones((3, 3)), iterations=width) for m in (predicted, truth)]
    return [
        (predicted & truth).sum(),
        predicted.sum(),
        truth.sum(),
        (rims[0] & rims[1]).sum(),
        (rims[0] | rims[1]).sum(),
    ]


@pytest.mark.parametrize("seed", range(4))
def test_arrays_of_pixels_agree(seed: int) -> None:
    split, detections = random_case(seed)
    found = measured(split, list(detections))
    for place, category in enumerate((1, 2)):
        sums = np.zeros(5)
        for image in split.images:
            confident = [d for d in detections.of(image.id, category) if d.score >= 0.5]
            labels = split.ground_truth(image.id, category)
            predicted = united([d.rle for d in confident])
            sums += counted(predicted, united([a.segmentation for a in labels]))
        both, predicted_area, truth_area, rim_both, rim_any = sums
        assert found["iou"][place] == pytest.approx(both / (predicted_area + truth_area - both))
        assert found["dice"][place] == pytest.approx(2 * both / (predicted_area + truth_area))
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


def test_a_sloppy_outline_only_shows_at_the_rim() -> None:
    split = split_of([(1, 1, (10, 10, 80, 80))])
    found = measured(split, [detection(1, 1, (12, 12, 76, 76))])
    assert found["iou"][0] > 0.9
    assert found["boundary_iou"][0] < 0.5
