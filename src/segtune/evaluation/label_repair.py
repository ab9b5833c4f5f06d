"""What is proposed for each suspected label error, and the labels as they would be then."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_utils

from segtune.core.typed_json import read_typed, write_typed
from segtune.dataset.coco import Annotation, Image, Split, with_rle_masks
from segtune.dataset.detections import Detection, Detections
from segtune.dataset.masks import (
    BoxXywh,
    box_to_polygon,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_rle,
)
from segtune.dataset.polygons import mask_polygons
from segtune.evaluation.average_precision import Kind
from segtune.evaluation.calibration import MIN_SCORE
from segtune.evaluation.error_types import ErrorRecord, classify_errors
from segtune.evaluation.label_issues import LabelIssue, issues_with_records
from segtune.evaluation.matching import MATCH_IOU, ClassMatches

FIX = "Give an issues.json that segtune.label_issues wrote"


@dataclass(frozen=True)
class Proposal:
    """A label as it should be."""

    label: str  # class
    bbox_xywh: BoxXywh  # pixels
    segmentation: list[list[float]] | dict[str, Any] | None  # polygons or RLE; None: box only


@dataclass(frozen=True)
class Repair(LabelIssue):
    """A suspected label error, and what is proposed for it."""

    proposal: Proposal | None  # None: the label is removed


@dataclass(frozen=True)
class LabelRepairs:
    """The suspected label errors of a dataset."""

    min_score: float  # issue score of an issue, at least
    images: dict[str, int]  # split -> its images, all of which were looked at
    issues: list[Repair]  # the likeliest first


@dataclass(frozen=True)
class CorrectedLabel:
    """A label after correction."""

    annotation: Annotation
    repair: Repair | None  # that changed or added it; None where it is as it was


def write_repairs(path: Path, repairs: LabelRepairs) -> None:
    """Write suspected label errors as JSON, atomically."""
    write_typed(path, repairs)


def read_repairs(path: Path) -> LabelRepairs:
    """Read what `write_repairs` wrote, and what people have left of it.

    Raises:
        DatasetError: when it is not such a file, naming the record that cannot be used.
    """
    return read_typed(path, LabelRepairs, FIX)


def propose_repairs(
    split: Split,
    detections: Detections,
    classes: Sequence[ClassMatches],
    *,
    kind: Kind,
    min_score: float,
) -> list[Repair]:
    """The suspected label errors of a split with a proposal for each, the likeliest first.

    A label has one issue, the likeliest; of detections that overlap each other where labels seem
    to be missing, the likeliest is proposed.

    Args:
        split: with the labels.
        detections: of the fine-tuned model, including low scores.
        classes: per class, the matches from which precision and recall are known.
        kind: what is compared.
        min_score: issue score of an issue, at least.
    """
    thresholds = {category.id: MIN_SCORE for category in split.categories}
    masks = with_rle_masks(split)
    records = classify_errors(masks, detections, thresholds, with_masks=kind == "mask")
    found = issues_with_records(masks, records, classes, min_score=min_score)
    labels = {a.id: a for a in split.objects}
    names = {category.id: category.name for category in split.categories}
    return [
        Repair(
            **vars(issue), proposal=_proposal(issue, record, labels=labels, names=names, kind=kind)
        )
        for issue, record in _compatible(found)
    ]


def corrected(split: Split, repairs: Iterable[Repair]) -> dict[int, list[CorrectedLabel]]:
    """Image id -> its labels after all proposals, of the images with issues.

    Args:
        split: with the labels.
        repairs: of this split, at most one for each label.
    """
    by_image: dict[int, list[Repair]] = {}
    for repair in repairs:
        by_image.setdefault(repair.image_id, []).append(repair)
    images = {image.id: image for image in split.images}
    categories = {category.name: category.id for category in split.categories}
    numbers = count(1 + max((a.id for a in split.objects), default=0))
    return {
        number: list(
            _corrected(
                images[number],
                split.annotations[number],
                found,
                categories=categories,
                numbers=numbers,
            )
        )
        for number, found in by_image.items()
    }


def _corrected(
    image: Image,
    labels: Iterable[Annotation],
    repairs: Sequence[Repair],
    *,
    categories: Mapping[str, int],
    numbers: Iterator[int],
) -> Iterator[CorrectedLabel]:
    of_label = {repair.annotation_id: repair for repair in repairs}
    for a in labels:
        repair = of_label.get(a.id)
        if not repair:
            yield CorrectedLabel(a, None)
        elif repair.reason == "wrong class" and repair.proposal:
            category = categories[repair.proposal.label]
            yield CorrectedLabel(replace(a, category_id=category), repair)
        elif repair.proposal:
            yield CorrectedLabel(_new(a.id, repair.proposal, image, categories), repair)
    for repair in repairs:
        if repair.annotation_id is None and repair.proposal:
            new = _new(next(numbers), repair.proposal, image, categories)
            yield CorrectedLabel(new, repair)


def _compatible(
    found: Iterable[tuple[LabelIssue, ErrorRecord]],
) -> Iterator[tuple[LabelIssue, ErrorRecord]]:
    """The issues whose proposals do not contradict a likelier one's."""
    labels: set[int] = set()
    added: dict[int, list[Detection]] = {}
    for issue, record in found:
        if issue.annotation_id is not None:
            if issue.annotation_id not in labels:
                labels.add(issue.annotation_id)
                yield issue, record
        elif (new := record.detection) and not _overlaps(new, added.get(issue.image_id, [])):
            added.setdefault(issue.image_id, []).append(new)
            yield issue, record


def _overlaps(new: Detection, others: Sequence[Detection]) -> bool:
    if not others:
        return False
    ious = mask_utils.iou([new.rle], [other.rle for other in others], [0] * len(others))
    return bool(ious.max() >= MATCH_IOU)


def _proposal(
    issue: LabelIssue,
    record: ErrorRecord,
    *,
    labels: Mapping[int, Annotation],
    names: Mapping[int, str],
    kind: Kind,
) -> Proposal | None:
    if not record.detection:
        return None
    name = names[record.category_id]
    if issue.reason == "wrong class" and issue.annotation_id is not None:
        label = labels[issue.annotation_id]
        return Proposal(name, label.bbox_xywh, label.segmentation)
    polygons = mask_polygons(record.detection.rle) if kind == "mask" else None
    if not polygons:
        return Proposal(name, record.detection.bbox_xywh, None)
    # Of what is drawn from the polygons, as every reader computes it.
    drawn = segmentation_to_rle(polygons, *record.detection.rle["size"])
    return Proposal(name, rle_bbox_xywh(drawn), polygons)


def _new(
    number: int, proposal: Proposal, image: Image, categories: Mapping[str, int]
) -> Annotation:
    shape = proposal.segmentation or [box_to_polygon(proposal.bbox_xywh)]
    return Annotation(
        id=number,
        image_id=image.id,
        category_id=categories[proposal.label],
        bbox_xywh=proposal.bbox_xywh,
        area=rle_area(segmentation_to_rle(shape, image.height, image.width)),
        segmentation=proposal.segmentation,
        iscrowd=0,
    )
