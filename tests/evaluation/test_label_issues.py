"""Label errors made on purpose are found, and good labels are not listed."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from segtune.dataset.coco import Split
from segtune.dataset.detections import Detection, Detections
from segtune.evaluation.assessment import match_detections
from segtune.evaluation.error_types import classify_errors
from segtune.evaluation.label_issues import LabelIssue, find_label_issues
from tests.scenes import Box, detection, split_of

IMAGES = 20
BOX: Box = (10, 10, 40, 40)
FAR: Box = (60, 60, 30, 30)


def labeled() -> Split:
    """A cat in every image, and a dog in every second image."""
    objects = [(n, 1, BOX) for n in range(1, IMAGES + 1)]
    return split_of([*objects, *((n, 2, FAR) for n in range(2, IMAGES + 1, 2))], IMAGES)


def predicted() -> list[Detection]:
    """All of the original labels."""
    return [
        detection(a.image_id, a.category_id, BOX if a.category_id == 1 else FAR, 0.9)
        for a in labeled().objects
    ]


def label_issues(split: Split, found: Iterable[Detection], limit: int = 50) -> list[LabelIssue]:
    detections = Detections(found)
    records = classify_errors(split, detections, {1: 0.05, 2: 0.05}, with_masks=True)
    matches = match_detections(split, detections, "mask")
    return find_label_issues(split, records, matches, limit=limit)


def changed(split: Split, image: int, **changes: Any) -> Split:
    """The split with the first label of an image changed, or removed where no change is given."""
    first, *rest = split.annotations[image]
    labels = [replace(first, **changes), *rest] if changes else rest
    return replace(split, annotations={**split.annotations, image: tuple(labels)})


def test_good_labels_are_not_listed() -> None:
    assert label_issues(labeled(), predicted()) == []


def test_a_missing_label_is_found() -> None:
    (found,) = label_issues(changed(labeled(), 3), predicted())
    assert (found.reason, found.image_id, found.annotation_id) == ("missing label", 3, None)
    assert (found.labeled, found.predicted, found.score) == (None, "cat", 0.9)
    assert found.bbox_xywh == BOX
    assert 0.9 < found.issue_score < 1.0
    assert (found.split, found.file_name) == ("test", "3.jpg")


def test_a_wrong_class_is_found() -> None:
    split = changed(labeled(), 3, category_id=2)
    (found,) = label_issues(split, predicted())
    assert (found.reason, found.labeled, found.predicted) == ("wrong class", "dog", "cat")
    assert found.annotation_id == split.annotations[3][0].id


def test_a_poor_localization_is_found() -> None:
    small = split_of([(1, 1, (10, 10, 40, 12))]).annotations[1][0]
    split = changed(
        labeled(), 3, segmentation=small.segmentation, bbox_xywh=small.bbox_xywh, area=small.area
    )
    (found,) = label_issues(split, predicted())
    assert (found.reason, found.labeled, found.predicted) == ("poor localization", "cat", "cat")


def test_a_label_without_an_object_is_found() -> None:
    detections = [d for d in predicted() if (d.image_id, d.category_id) != (3, 1)]
    (found,) = label_issues(labeled(), detections)
    assert (found.reason, found.labeled, found.predicted) == ("no object", "cat", None)
    assert found.issue_score == 19 / 20


def test_a_label_that_a_detection_of_another_object_overlaps_is_not_removed() -> None:
    """In a crowded scene, the one of two overlapping objects that was missed."""
    beside = split_of([(1, 1, (30, 10, 40, 40))]).annotations[1][0]
    beside = replace(beside, id=1000, image_id=3)
    split = labeled()
    annotations = {**split.annotations, 3: (*split.annotations[3], beside)}
    assert label_issues(replace(split, annotations=annotations), predicted()) == []
    moved = split_of([(1, 1, (60, 10, 40, 40))]).annotations[1][0]
    annotations[3] = (*split.annotations[3], replace(moved, id=1000, image_id=3))
    (found,) = label_issues(replace(split, annotations=annotations), predicted())
    assert (found.reason, found.annotation_id) == ("no object", 1000)


@pytest.mark.parametrize("changes", [{"iscrowd": 1}, {"segmentation": None}])
@pytest.mark.parametrize("place", [BOX, (10, 40, 40, 40)])
def test_nothing_is_missing_where_a_crowd_or_a_box_is(changes: dict[str, Any], place: Box) -> None:
    split = changed(labeled(), 3, **changes)
    other = detection(3, 2, place, 0.9)  # a dog on it, or partly beside it
    assert label_issues(split, [*predicted(), other]) == []


def test_a_model_that_is_rarely_right_raises_no_issues() -> None:
    strays = [detection(n, 1, FAR, 0.95) for n in range(1, IMAGES + 1)]
    few = [d for d in predicted() if d.image_id < 5]
    assert label_issues(labeled(), strays + few) == []


def test_a_confirmed_label_is_not_listed() -> None:
    # Not even where another detection there has another class.
    assert label_issues(labeled(), [*predicted(), detection(3, 2, BOX, 0.9)]) == []


def test_the_likeliest_comes_first() -> None:
    split = changed(changed(labeled(), 3), 4)
    detections = [replace(d, score=0.8) if d.image_id == 3 else d for d in predicted()]
    assert [s.image_id for s in label_issues(split, detections)] == [4, 3]
    assert [s.image_id for s in label_issues(split, detections, limit=1)] == [4]
