"""Each error type, made on purpose."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from segtune.dataset.coco import Split
from segtune.dataset.detections import Detection, Detections
from segtune.evaluation.error_types import (
    ERROR_TYPES,
    ErrorType,
    classify_errors,
    confusion,
    error_counts,
)
from tests.scenes import Box, box_only, detection, random_case, split_of

NAMES = {1: "cat", 2: "dog"}
HALF = {1: 0.5, 2: 0.5}
OBJECT: Box = (10, 10, 40, 40)
FAR: Box = (60, 60, 30, 30)
QUARTER: Box = (10, 10, 40, 10)  # an IoU of 1/4 with OBJECT


def types(split: Split, found: Sequence[Detection], with_masks: bool = True) -> list[ErrorType]:
    records = classify_errors(split, Detections(found), HALF, with_masks=with_masks)
    return [record.type for record in records]


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
def test_each_error_has_its_type(
    found: list[tuple[int, Box]], expected: list[str], with_masks: bool
) -> None:
    split = split_of([(1, 1, OBJECT)])
    detections = [detection(1, c, box, 0.9 - n / 10) for n, (c, box) in enumerate(found)]
    assert types(split, detections, with_masks) == expected


def test_a_record_names_its_object() -> None:
    split = split_of([(1, 1, FAR), (1, 1, OBJECT)])
    far, label = split.annotations[1]
    poor, stray = detection(1, 1, QUARTER, 0.9), detection(1, 2, (80, 10, 9, 9), 0.8)
    records = classify_errors(split, Detections([stray, poor]), HALF, with_masks=True)
    localization, background, missed = records
    assert (localization.type, localization.annotation, localization.detection) == (
        "localization",
        label,
        poor,
    )
    assert localization.iou == pytest.approx(1 / 4)
    assert (background.type, background.annotation, background.iou) == ("background", None, 0.0)
    assert (background.category_id, background.score) == (2, 0.8)
    assert (missed.type, missed.annotation, missed.detection) == ("missed", far, None)
    assert (missed.category_id, missed.score) == (1, None)


def test_a_detection_in_an_image_without_objects_is_background() -> None:
    assert types(split_of([], images=2), [detection(1, 1, OBJECT)]) == ["background"]


def test_the_highest_score_takes_the_object() -> None:
    split = split_of([(1, 1, OBJECT)])
    detections = [detection(1, 1, OBJECT, 0.6), detection(1, 1, (10, 10, 40, 35), 0.9)]
    first, second = classify_errors(split, Detections(detections), HALF, with_masks=True)
    assert (first.type, first.score) == ("correct", 0.9)
    assert (second.type, second.score) == ("duplicate", 0.6)


def test_two_objects_match_two_detections() -> None:
    split = split_of([(1, 1, OBJECT), (1, 1, (10, 18, 40, 40))])
    detections = [detection(1, 1, OBJECT, 0.9), detection(1, 1, OBJECT, 0.8)]
    assert types(split, detections) == ["correct", "correct"]


def test_a_detection_below_the_threshold_of_its_class_does_not_count() -> None:
    split = split_of([(1, 1, OBJECT)])
    found = Detections([detection(1, 1, OBJECT, 0.6)])
    for thresholds, expected in (({1: 0.7, 2: 0.1}, "missed"), ({1: 0.6, 2: 0.9}, "correct")):
        records = classify_errors(split, found, thresholds, with_masks=True)
        assert [record.type for record in records] == [expected]


def test_detections_of_crowds_and_unknown_masks_are_left_out() -> None:
    split = split_of([(1, 1, OBJECT)])
    (known,) = split.annotations[1]
    crowd = replace(split, annotations={1: (replace(known, iscrowd=1),), 2: ()})
    assert types(crowd, [detection(1, 1, (12, 12, 9, 9)), detection(1, 1, FAR)]) == ["background"]
    both = replace(split, annotations={1: (known, box_only(2, 1, 1, FAR)), 2: ()})
    assert types(both, [detection(1, 1, FAR)]) == ["missed"]
    assert types(both, [detection(1, 1, FAR)], with_masks=False) == ["correct", "missed"]


def test_a_poorly_localized_object_is_still_classified_correctly() -> None:
    split = split_of([(1, 1, OBJECT), (2, 2, OBJECT)])
    detections = Detections([detection(1, 1, QUARTER), detection(2, 1, QUARTER)])
    assert confusion(classify_errors(split, detections, HALF, with_masks=True), NAMES) == {
        "cat": {"cat": 1, "dog": 0, "(nothing)": 0},
        "dog": {"cat": 0, "dog": 0, "(nothing)": 1},
        "(nothing)": {"cat": 1, "dog": 0},
    }


def test_errors_are_counted_per_class_and_confusions_per_pair() -> None:
    split = split_of([(1, 1, OBJECT), (1, 2, FAR), (2, 2, OBJECT)])
    detections = Detections(
        [
            detection(1, 1, OBJECT, 0.9),
            detection(1, 1, OBJECT, 0.8),
            detection(1, 1, FAR, 0.7),
            detection(2, 1, FAR, 0.6),
        ]
    )
    records = classify_errors(split, detections, HALF, with_masks=True)
    table = error_counts(records, NAMES)
    assert {kind: n for kind, n in table["cat"].items() if n} == {
        "correct": 1,
        "duplicate": 1,
        "classification": 1,
        "background": 1,
    }
    assert {kind: n for kind, n in table["dog"].items() if n} == {"missed": 1}
    assert confusion(records, NAMES) == {
        "cat": {"cat": 1, "dog": 0, "(nothing)": 0},
        "dog": {"cat": 1, "dog": 0, "(nothing)": 1},
        "(nothing)": {"cat": 1, "dog": 0},
    }


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_every_detection_and_every_object_is_accounted_for(seed: int, with_masks: bool) -> None:
    split, detections = random_case(seed)
    records = classify_errors(split, detections, HALF, with_masks=with_masks)
    confident = [d for d in detections if d.score >= 0.5]
    tally = Counter(record.type for record in records)
    assert sum(tally.values()) - tally["missed"] == len(confident)
    correct = [r.annotation.id for r in records if r.type == "correct" and r.annotation]
    missed = [r.annotation.id for r in records if r.type == "missed" and r.annotation]
    assert len(set(correct)) == len(correct)
    assert not set(correct) & set(missed)
    explained = {
        r.annotation.id
        for r in records
        if r.type in ("classification", "localization") and r.annotation
    }
    assert set(correct) | set(missed) | explained == {a.id for a in split.objects}
    assert set(tally) <= set(ERROR_TYPES)
