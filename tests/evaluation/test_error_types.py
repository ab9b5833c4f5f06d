"""Each kind of mistake, made on purpose."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from segtune.dataset.coco import Annotation, Split
from segtune.evaluation.error_types import KINDS, classify_errors, confusion, counts
from tests.evaluation.test_average_precision import Box, detection, random_case, split_of

NAMES = {1: "cat", 2: "dog"}
HALF = {1: 0.5, 2: 0.5}
OBJECT: Box = (10, 10, 40, 40)
FAR: Box = (60, 60, 30, 30)
QUARTER: Box = (10, 10, 40, 10)  # an IoU of 1/4 with OBJECT


def kinds(split: Split, results: list[dict[str, Any]], with_masks: bool = True) -> list[str]:
    return [j.kind for j in classify_errors(split, results, HALF, with_masks)]


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(1, OBJECT)], ["correct"]),
        ([(2, OBJECT)], ["classification"]),
        ([(1, QUARTER)], ["localization"]),
        ([(2, QUARTER)], ["both", "missed"]),
        ([(1, OBJECT), (1, OBJECT)], ["correct", "duplicate"]),
        ([(1, FAR)], ["background", "missed"]),
        ([], ["missed"]),
        ([(1, OBJECT), (2, OBJECT)], ["correct", "classification"]),
    ],
)
def test_each_mistake_is_called_by_its_name(
    found: list[tuple[int, Box]], expected: list[str], with_masks: bool
) -> None:
    split = split_of([(1, 1, OBJECT)])
    results = [detection(1, c, box, 0.9 - n / 10) for n, (c, box) in enumerate(found)]
    assert kinds(split, results, with_masks) == expected


def test_a_image_with_nothing_on_it_has_room_for_mistakes() -> None:
    assert kinds(split_of([], images=2), [detection(1, 1, OBJECT)]) == ["background"]


def test_the_best_score_takes_the_object() -> None:
    split = split_of([(1, 1, OBJECT)])
    results = [detection(1, 1, OBJECT, 0.6), detection(1, 1, (10, 10, 40, 35), 0.9)]
    first, second = classify_errors(split, results, HALF, with_masks=True)
    assert (first.kind, first.score) == ("correct", 0.9)
    assert (second.kind, second.score) == ("duplicate", 0.6)


def test_two_objects_are_met_by_two_detections() -> None:
    split = split_of([(1, 1, OBJECT), (1, 1, (10, 18, 40, 40))])
    results = [detection(1, 1, OBJECT, 0.9), detection(1, 1, OBJECT, 0.8)]
    assert kinds(split, results) == ["correct", "correct"]


def test_what_scores_less_than_its_class_asks_was_not_said() -> None:
    split = split_of([(1, 1, OBJECT)])
    result = [detection(1, 1, OBJECT, 0.6)]
    assert [j.kind for j in classify_errors(split, result, {1: 0.7, 2: 0.1}, True)] == ["missed"]
    assert [j.kind for j in classify_errors(split, result, {1: 0.6, 2: 0.9}, True)] == ["correct"]


def test_crowds_and_unknown_masks_swallow_detections() -> None:
    split = split_of([(1, 1, OBJECT)])
    (known,) = split.annotations[1]
    crowd = replace(split, annotations={1: (replace(known, iscrowd=1),), 2: ()})
    assert kinds(crowd, [detection(1, 1, (12, 12, 9, 9)), detection(1, 1, FAR)]) == ["background"]
    box_only = Annotation(2, 1, 1, (60.0, 60.0, 30.0, 30.0), 900.0, None, 0)
    both = replace(split, annotations={1: (known, box_only), 2: ()})
    assert kinds(both, [detection(1, 1, FAR)]) == ["missed"]
    assert kinds(both, [detection(1, 1, FAR)], with_masks=False) == ["correct", "missed"]


def test_a_poor_outline_is_called_by_its_name_all_the_same() -> None:
    split = split_of([(1, 1, OBJECT), (2, 2, OBJECT)])
    results = [detection(1, 1, QUARTER), detection(2, 1, QUARTER)]
    assert confusion(classify_errors(split, results, HALF, with_masks=True), NAMES) == {
        "cat": {"cat": 1, "dog": 0, "(nothing)": 0},
        "dog": {"cat": 0, "dog": 0, "(nothing)": 1},
        "(nothing)": {"cat": 1, "dog": 0},
    }


def test_mistakes_are_counted_per_class_and_confusions_per_pair() -> None:
    split = split_of([(1, 1, OBJECT), (1, 2, FAR), (2, 2, OBJECT)])
    results = [
        detection(1, 1, OBJECT, 0.9),
        detection(1, 1, OBJECT, 0.8),
        detection(1, 1, FAR, 0.7),
        detection(2, 1, FAR, 0.6),
    ]
    judged = classify_errors(split, results, HALF, with_masks=True)
    table = counts(judged, NAMES)
    assert {kind: n for kind, n in table["cat"].items() if n} == {
        "correct": 1,
        "duplicate": 1,
        "classification": 1,
        "background": 1,
    }
    assert {kind: n for kind, n in table["dog"].items() if n} == {"missed": 1}
    assert confusion(judged, NAMES) == {
        "cat": {"cat": 1, "dog": 0, "(nothing)": 0},
        "dog": {"cat": 1, "dog": 0, "(nothing)": 1},
        "(nothing)": {"cat": 1, "dog": 0},
    }


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_every_detection_and_every_object_is_accounted_for(seed: int, with_masks: bool) -> None:
    split, results = random_case(seed)
    judged = classify_errors(split, results, HALF, with_masks)
    passed = [r for r in results if r["score"] >= 0.5]
    tally = Counter(j.kind for j in judged)
    assert sum(tally.values()) - tally["missed"] == len(passed)
    correct = [j.annotation.id for j in judged if j.kind == "correct" and j.annotation]
    missed = [j.annotation.id for j in judged if j.kind == "missed" and j.annotation]
    assert len(set(correct)) == len(correct)
    assert not set(correct) & set(missed)
    explained = {
        j.annotation.id
        for j in judged
        if j.kind in ("classification", "localization") and j.annotation
    }
    assert set(correct) | set(missed) | explained == {
        a.id for found in split.annotations.values() for a in found
    }
    assert set(tally) <= set(KINDS)
