"""Greedy matching: a naive loop as oracle; IoU where there is nothing to compare."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segtune.evaluation.matching import iou_matrix, match_greedily
from tests.scenes import detection, split_of

SHAPES = st.tuples(st.integers(0, 6), st.integers(0, 6))
# Few distinct values, so that ties and values at the threshold are common.
IOUS = SHAPES.flatmap(
    lambda shape: st.tuples(
        arrays(float, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
        arrays(bool, shape),
    )
)


def naive_matches(ious: Any, allowed: Any, threshold: float) -> dict[int, int]:
    matches: dict[int, int] = {}
    for row in range(len(ious)):
        best = None
        for column in range(ious.shape[1]):
            if column in matches.values() or not allowed[row, column]:
                continue
            if ious[row, column] < threshold:
                continue
            if best is None or ious[row, column] > ious[row, best]:
                best = column
        if best is not None:
            matches[row] = best
    return matches


@given(IOUS, st.sampled_from([0.1, 0.5, 0.6]))
def test_greedy_matching_is_a_naive_loop(case: tuple[Any, Any], threshold: float) -> None:
    ious, allowed = case
    before = ious.copy(), allowed.copy()
    matches = match_greedily(ious, allowed, threshold)
    assert matches == naive_matches(ious, allowed, threshold)
    assert len(set(matches.values())) == len(matches)
    assert all(allowed[pair] and ious[pair] >= threshold for pair in matches.items())
    assert np.array_equal(ious, before[0]) and np.array_equal(allowed, before[1])


def test_ties_go_to_the_first_object() -> None:
    ious = np.array([[0.2, 0.7, 0.7], [0.9, 0.7, 0.7], [0.9, 0.6, 0.6]])
    assert match_greedily(ious, np.ones((3, 3), bool), 0.5) == {0: 1, 1: 0, 2: 2}


def test_an_earlier_row_takes_an_object_that_a_later_one_overlaps_more() -> None:
    ious = np.array([[0.6], [0.9]])
    assert match_greedily(ious, np.ones((2, 1), bool), 0.5) == {0: 0}


def test_without_detections_or_objects_there_are_no_ious() -> None:
    split = split_of([(1, 1, (10, 10, 40, 40))])
    image, objects = split.images[0], split.annotations[1]
    for with_masks in (True, False):
        none = iou_matrix(image, [], objects, regions=[False], with_masks=with_masks)
        assert none.shape == (0, 1)
        found = [detection(1, 1, (10, 10, 40, 20))]
        assert iou_matrix(image, found, [], regions=[], with_masks=with_masks).shape == (1, 0)
        both = iou_matrix(image, found, objects, regions=[False], with_masks=with_masks)
        assert both.tolist() == [[0.5]]
        inside = iou_matrix(image, found, objects, regions=[True], with_masks=with_masks)
        assert inside.tolist() == [[1.0]]
