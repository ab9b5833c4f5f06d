"""Proposals for label issues, and the labels after them, in memory."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segtune.core.errors import DatasetError
from segtune.dataset.coco import Image, Split
from segtune.dataset.detections import Detection, Detections
from segtune.evaluation.assessment import match_detections
from segtune.evaluation.average_precision import Kind
from segtune.evaluation.label_patch import write_patch
from segtune.evaluation.label_repair import (
    LabelRepairs,
    Repair,
    corrected,
    propose_repairs,
    read_repairs,
    write_repairs,
)
from tests.scenes import Box, box_only, detection, rectangle, split_of

BOX: Box = (10, 10, 40, 40)
IMAGES = 6


def labeled() -> Split:
    """A cat in every image."""
    return split_of([(n, 1, BOX) for n in range(1, IMAGES + 1)], IMAGES)


def with_labels(split: Split, image: int, *labels: Any) -> Split:
    return replace(split, annotations={**split.annotations, image: labels})


def repairs_of(
    split: Split, reference: Split, found: Sequence[Detection], kind: Kind = "mask"
) -> list[Repair]:
    """What is proposed for `split`, trusting detections as far as `reference` shows."""
    detections = Detections(found)
    matches = match_detections(reference, detections, kind)
    return propose_repairs(split, detections, matches, kind=kind, min_score=0.5)


def everything() -> list[Detection]:
    return [detection(n, 1, BOX) for n in range(1, IMAGES + 1)]


def test_without_masks_boxes_are_proposed() -> None:
    boxes = replace(
        labeled(), annotations={n: (box_only(n, n, 1, BOX),) for n in range(1, IMAGES + 1)}
    )
    (repair,) = repairs_of(with_labels(boxes, 3), boxes, everything(), "box")
    assert repair.reason == "missing label"
    assert repair.proposal and repair.proposal.segmentation is None
    ((label,),) = corrected(with_labels(boxes, 3), [repair]).values()
    added = label.annotation
    assert (added.segmentation, added.bbox_xywh, added.area) == (None, BOX, 1600.0)
    assert added.id == IMAGES + 1


def test_a_wrong_class_keeps_its_rle(tmp_path: Path) -> None:
    split = labeled()
    (label,) = split.annotations[3]
    wrong = with_labels(split, 3, replace(label, category_id=2))
    (repair,) = repairs_of(wrong, split, everything())
    write_patch(tmp_path / "patch.json", wrong, [repair])
    (after,) = json.loads((tmp_path / "patch.json").read_text())["annotations"]
    assert after["segmentation"] == rectangle(BOX)
    assert (after["category_id"], after["segtune"]) == (1, "wrong class")


def test_new_labels_are_numbered_beyond_all_others() -> None:
    split = labeled()
    gaps = with_labels(with_labels(split, 2), 5)
    after = corrected(gaps, repairs_of(gaps, split, everything()))
    ids = {image: [label.annotation.id for label in found] for image, found in after.items()}
    assert ids == {2: [IMAGES + 1], 5: [IMAGES + 2]}
    assert all(label.repair for found in after.values() for label in found)


def test_crowds_stay_as_they_are() -> None:
    split = labeled()
    crowd = replace(box_only(90, 3, 2, (60, 60, 30, 30)), iscrowd=1)
    gap = with_labels(split, 3, crowd)
    (repair,) = repairs_of(gap, split, everything())
    first, second = corrected(gap, [repair])[3]
    assert (first.annotation, first.repair) == (crowd, None)
    assert second.repair == repair


def test_names_in_the_patch_are_as_labeling_tools_know_them(tmp_path: Path) -> None:
    split = labeled()
    names = [f"train/images/{n}.jpg" for n in range(1, IMAGES)] + ["train/more/1.jpg"]
    images = tuple(
        Image(n, name, 100, 100, original=f"photo {n}.jpg") for n, name in enumerate(names, start=1)
    )
    whole = replace(split, images=images)
    unique = replace(
        split, images=images[:-1], annotations={n: split.annotations[n] for n in range(1, IMAGES)}
    )
    for own, name in ((whole, "images/1.jpg"), (unique, "1.jpg")):
        gap = with_labels(own, 1)
        write_patch(tmp_path / "patch.json", gap, repairs_of(gap, own, everything()))
        (image,) = json.loads((tmp_path / "patch.json").read_text())["images"]
        assert image["file_name"] == name
        assert image["extra"] == {"name": "photo 1.jpg"}


def test_issues_are_read_as_they_were_written(tmp_path: Path) -> None:
    split = labeled()
    found = repairs_of(with_labels(split, 3), split, everything())
    before = LabelRepairs(0.5, {"test": IMAGES}, found)
    write_repairs(tmp_path / "issues.json", before)
    assert read_repairs(tmp_path / "issues.json") == before


@pytest.mark.parametrize(
    ("change", "record"),
    [({"reason": "ugly"}, "issues.0.reason"), ({"proposal": 3}, "issues.0.proposal")],
)
def test_an_issue_that_cannot_be_read_is_named(
    tmp_path: Path, change: dict[str, Any], record: str
) -> None:
    split, path = labeled(), tmp_path / "issues.json"
    found = repairs_of(with_labels(split, 3), split, everything())
    write_repairs(path, LabelRepairs(0.5, {"test": IMAGES}, found))
    values = json.loads(path.read_text())
    values["issues"][0] |= change
    path.write_text(json.dumps(values))
    with pytest.raises(DatasetError) as raised:
        read_repairs(path)
    assert raised.value.record == record
