"""Suspected label errors: where the fine-tuned model is confident and the label disagrees.

For people who look at these images before they label more. Confidence is measured on the data
itself: as the precision of the class's detections that score as high.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from segtune.dataset.coco import Category, Image, Split
from segtune.dataset.masks import BoxXywh
from segtune.evaluation.calibration import at_threshold, precision_at_score
from segtune.evaluation.error_types import ErrorRecord, ErrorType
from segtune.evaluation.matching import ClassMatches

Reason = Literal["missing label", "wrong class", "poor localization", "no object"]
REASONS: dict[ErrorType, Reason] = {
    "background": "missing label",
    "classification": "wrong class",
    "localization": "poor localization",
    "missed": "no object",
}
MIN_ISSUE_SCORE = 0.5


@dataclass(frozen=True)
class LabelIssue:
    """A label, or the lack of one, that should be checked."""

    reason: Reason
    split: str
    file_name: str
    image_id: int
    annotation_id: int | None  # of the label; None where one seems to be missing
    labeled: str | None  # class
    predicted: str | None  # class
    score: float | None  # of the detection
    issue_score: float  # 0 to 1
    bbox_xywh: BoxXywh  # pixels; the label's, or the detection's


def find_label_issues(
    split: Split, records: Sequence[ErrorRecord], classes: Sequence[ClassMatches], limit: int
) -> list[LabelIssue]:
    """The most suspicious labels of a split, the worst first.

    The issue score of a detection is the precision at its score; that of a label which nothing
    overlaps is the recall of its class.

    Args:
        split: with the labels.
        records: the fine-tuned model's detections from low scores on, classified.
        classes: per class, its matches on the split.
        limit: of the number of issues.
    """
    matches = {
        category.id: found for category, found in zip(split.categories, classes, strict=True)
    }
    categories = {category.id: category for category in split.categories}
    images = {image.id: image for image in split.images}
    settled = {r.annotation.id for r in records if r.type == "correct" and r.annotation}
    related = {r.annotation.id for r in records if r.type != "missed" and r.annotation}
    issues = []
    for r in records:
        known = r.annotation.id if r.annotation else None
        if r.type not in REASONS or known in settled or (r.type == "missed" and known in related):
            continue
        issue_score = _issue_score(r, matches[r.category_id])
        if issue_score >= MIN_ISSUE_SCORE:
            issues.append(_issue(r, split.name, images[r.image_id], categories, issue_score))
    return sorted(issues, key=lambda s: (-s.issue_score, -(s.score or 0.0)))[:limit]


def _issue_score(record: ErrorRecord, matches: ClassMatches) -> float:
    if record.score is not None:
        return precision_at_score(matches, record.score)
    return at_threshold(matches, 0.0).recall or 0.0


def _issue(
    record: ErrorRecord,
    split: str,
    image: Image,
    categories: dict[int, Category],
    issue_score: float,
) -> LabelIssue:
    label, detection = record.annotation, record.detection
    located = label or detection
    assert located is not None  # a record has one of them
    return LabelIssue(
        reason=REASONS[record.type],
        split=split,
        file_name=image.file_name,
        image_id=image.id,
        annotation_id=label.id if label else None,
        labeled=categories[label.category_id].name if label else None,
        predicted=categories[record.category_id].name if detection else None,
        score=record.score,
        issue_score=issue_score,
        bbox_xywh=located.bbox_xywh,
    )
