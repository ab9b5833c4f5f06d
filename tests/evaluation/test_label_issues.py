"""Labels that were corrupted on purpose are found, and good ones are left in peace."""

from dataclasses import replace
from typing import Any

from segtune.dataset.coco import Split
from segtune.evaluation.assessment import matched
from segtune.evaluation.error_types import classify_errors
from segtune.evaluation.label_issues import LabelIssue, find_label_issues
from tests.evaluation.test_average_precision import Box, detection, split_of

IMAGES = 20
BOX: Box = (10, 10, 40, 40)
FAR: Box = (60, 60, 30, 30)


def labeled() -> Split:
    """A cat on each image, and a dog on each second."""
    objects = [(n, 1, BOX) for n in range(1, IMAGES + 1)]
    return split_of([*objects, *((n, 2, FAR) for n in range(2, IMAGES + 1, 2))], IMAGES)


def answers() -> list[dict[str, Any]]:
    """A model that is nearly always right."""
    split = labeled()
    return [
        detection(a.image_id, a.category_id, BOX if a.category_id == 1 else FAR, 0.9)
        for found in split.annotations.values()
        for a in found
    ]


def label_issues(split: Split, results: list[dict[str, Any]]) -> list[LabelIssue]:
    judged = classify_errors(split, results, {1: 0.05, 2: 0.05}, with_masks=True)
    return find_label_issues(split, judged, matched(split, results, "mask").matches, 50)


def changed(split: Split, image: int, **changes: Any) -> Split:
    """The split with the first label of an image changed; it goes where nothing is named."""
    first, *rest = split.annotations[image]
    kept = [replace(first, **changes), *rest] if changes else rest
    return replace(split, annotations={**split.annotations, image: tuple(kept)})


def test_good_labels_are_not_suspected() -> None:
    assert label_issues(labeled(), answers()) == []


def test_a_missing_label_is_found() -> None:
    (found,) = label_issues(changed(labeled(), 3), answers())
    assert (found.reason, found.image_id, found.annotation_id) == ("unlabelled", 3, None)
    assert (found.labeled, found.found, found.score) == (None, "cat", 0.9)
    assert found.bbox_xywh == BOX
    assert 0.9 < found.suspicion < 1.0
    assert found.file_name == "3.jpg"


def test_a_wrong_class_is_found() -> None:
    split = changed(labeled(), 3, category_id=2)
    (found,) = label_issues(split, answers())
    assert (found.reason, found.labeled, found.found) == ("another class", "dog", "cat")
    assert found.annotation_id == split.annotations[3][0].id


def test_a_poor_outline_is_found() -> None:
    small = split_of([(1, 1, (10, 10, 40, 12))]).annotations[1][0]
    split = changed(
        labeled(), 3, segmentation=small.segmentation, bbox_xywh=small.bbox_xywh, area=small.area
    )
    (found,) = label_issues(split, answers())
    assert (found.reason, found.labeled, found.found) == ("poor outline", "cat", "cat")


def test_a_label_on_nothing_is_found() -> None:
    results = [r for r in answers() if (r["image_id"], r["category_id"]) != (3, 1)]
    (found,) = label_issues(labeled(), results)
    assert (found.reason, found.labeled, found.found) == ("nothing there", "cat", None)
    assert found.suspicion == 19 / 20


def test_a_model_that_is_rarely_right_accuses_no_label() -> None:
    strays = [detection(n, 1, FAR, 0.95) for n in range(1, IMAGES + 1)]
    few = [r for r in answers() if r["image_id"] < 5]
    assert label_issues(labeled(), strays + few) == []


def test_an_object_that_was_found_is_settled() -> None:
    # A second opinion of another class does not accuse a label that is confirmed.
    results = [*answers(), detection(3, 2, BOX, 0.9)]
    assert label_issues(labeled(), results) == []


def test_the_most_suspicious_comes_first() -> None:
    split = changed(changed(labeled(), 3), 4)
    results = [{**r, "score": 0.8} if r["image_id"] == 3 else r for r in answers()]
    assert [s.image_id for s in label_issues(split, results)] == [4, 3]
    judged = classify_errors(split, results, {1: 0.05, 2: 0.05}, with_masks=True)
    matches = matched(split, results, "mask").matches
    assert [s.image_id for s in find_label_issues(split, judged, matches, 1)] == [4]
