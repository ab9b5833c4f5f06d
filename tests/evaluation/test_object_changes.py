"""Matching the labels of an image in two datasets."""

from dataclasses import replace

from segtune.dataset.coco import Annotation, Image
from segtune.evaluation.object_changes import MatchedLabels, match_labels
from tests.scenes import box_only, rectangle

IMAGE = Image(1, "1.png", 100, 100)
NAMES = {1: "cat", 2: "dog"}


def object_at(number: int, category: int, box: tuple[int, int, int, int]) -> Annotation:
    return replace(box_only(number, 1, category, box), segmentation=rectangle(box))


def match(before: list[Annotation], after: list[Annotation]) -> MatchedLabels:
    return match_labels(IMAGE, before, after, names=(NAMES, NAMES))


def summary(found: MatchedLabels) -> set[tuple[str, str, bool]]:
    return {(o.before, o.after, o.reshaped) for o in found.matched}


def test_the_same_labels_in_another_order_match() -> None:
    labels = [object_at(1, 1, (0, 0, 20, 20)), object_at(2, 2, (50, 50, 20, 20))]
    found = match(labels, [replace(a, id=9 + a.id) for a in reversed(labels)])
    assert summary(found) == {("cat", "cat", False), ("dog", "dog", False)}
    assert not found.removed and not found.added


def test_added_removed_reclassified_and_reshaped_objects_are_told_apart() -> None:
    before = [
        object_at(1, 1, (0, 0, 20, 20)),
        object_at(2, 1, (40, 0, 20, 20)),
        object_at(3, 2, (0, 40, 20, 20)),
    ]
    after = [
        object_at(1, 2, (0, 0, 20, 20)),  # another class
        object_at(2, 1, (40, 3, 20, 20)),  # moved: an IoU of 17 / 23
        object_at(4, 2, (70, 70, 20, 20)),
    ]
    found = match(before, after)
    assert summary(found) == {("cat", "dog", False), ("cat", "cat", True)}
    assert found.removed == ("dog",) and found.added == ("dog",)


def test_below_half_an_overlap_objects_are_others() -> None:
    found = match([object_at(1, 1, (0, 0, 20, 20))], [object_at(1, 1, (0, 8, 20, 20))])
    assert (found.matched, found.removed, found.added) == ((), ("cat",), ("cat",))


def test_an_object_matches_its_own_class_rather_than_a_closer_one() -> None:
    before = [object_at(1, 1, (0, 0, 20, 20)), object_at(2, 2, (0, 4, 20, 20))]
    after = [object_at(1, 2, (0, 1, 20, 20)), object_at(2, 1, (0, 3, 20, 20))]
    assert summary(match(before, after)) == {("cat", "cat", True), ("dog", "dog", True)}


def test_a_mask_in_place_of_a_box_is_another_outline() -> None:
    box = (10, 10, 20, 20)
    found = match([box_only(1, 1, 1, box)], [object_at(1, 1, box)])
    assert summary(found) == {("cat", "cat", True)}


def test_an_outline_that_differs_in_few_pixels_is_the_same() -> None:
    polygon = [10.0, 10.0, 90.0, 10.0, 90.0, 90.0, 10.0, 90.0]
    label = replace(box_only(1, 1, 1, (10, 10, 80, 80)), segmentation=[polygon])
    for corner, reshaped in ((91.0, False), (94.0, True)):
        moved = replace(label, segmentation=[[*polygon[:4], corner, *polygon[5:]]])
        assert summary(match([label], [moved])) == {("cat", "cat", reshaped)}
