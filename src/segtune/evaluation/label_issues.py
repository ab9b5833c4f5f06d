"""Suspected label errors: where the fine-tuned model is confident and the label disagrees.

They show annotators which images to check before they label more. How far a detection can be
trusted is measured on the data itself, as the precision of its class at its score.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segtune.dataset.coco import Split
from segtune.dataset.masks import BoxXywh
from segtune.evaluation.calibration import at_threshold, precision_at_scores
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
    issue_score: float  # 0..1
    bbox_xywh: BoxXywh  # pixels; the label's, or the detection's


def find_label_issues(
    split: Split,
    records: Sequence[ErrorRecord],
    classes: Sequence[ClassMatches],
    *,
    limit: int,
) -> list[LabelIssue]:
    """The suspected label errors of a split, the likeliest first.

    Args:
        split: with the labels.
        records: the fine-tuned model's detections by error type, including low scores.
        classes: per class, its matches on the split.
        limit: maximum number of issues.
    """
    found = issues_with_records(split, records, classes, min_score=MIN_ISSUE_SCORE)
    return [issue for issue, _ in found[:limit]]


def issues_with_records(
    split: Split,
    records: Sequence[ErrorRecord],
    classes: Sequence[ClassMatches],
    *,
    min_score: float,
) -> list[tuple[LabelIssue, ErrorRecord]]:
    """All suspected label errors of a split, the likeliest first, each with what shows it.

    The issue score of a detection is the precision at its score; that of a label without any
    overlapping detection is the recall of its class.

    Args:
        split: with the labels.
        records: the fine-tuned model's detections by error type, including low scores.
        classes: per class, the matches from which precision and recall are known.
        min_score: issue score of an issue, at least.
    """
    matches = {
        category.id: found for category, found in zip(split.categories, classes, strict=True)
    }
    listed = [(r, score) for r, score in _scored(records, matches) if score >= min_score]
    listed.sort(key=lambda found: (-found[1], -(found[0].score or 0.0)))
    names = {category.id: category.name for category in split.categories}
    files = {image.id: image.file_name for image in split.images}
    return [
        (_issue(r, split=split.name, file_name=files[r.image_id], names=names, issue_score=s), r)
        for r, s in listed
    ]


def _disagreements(records: Sequence[ErrorRecord]) -> list[ErrorRecord]:
    """The records that contradict the labels, without those of confirmed labels.

    Neither does a detection on a crowd or on a label without a mask contradict anything, nor the
    lack of one for a label that detections of others overlap.
    """
    confirmed = {r.annotation.id for r in records if r.type == "correct" and r.annotation}
    overlapped = {number for r in records for number in r.overlapped}
    settled = {**dict.fromkeys(REASONS, confirmed), "missed": confirmed | overlapped}
    return [
        r
        for r in records
        if r.type in REASONS
        and not (r.annotation and r.annotation.id in settled[r.type])
        and not (r.type == "background" and r.overlapped)
    ]


def _scored(
    records: Sequence[ErrorRecord], matches: Mapping[int, ClassMatches]
) -> Iterator[tuple[ErrorRecord, float]]:
    """The records that contradict the labels with their issue scores, class by class."""
    by_class: dict[int, list[ErrorRecord]] = defaultdict(list)
    for r in _disagreements(records):
        by_class[r.category_id].append(r)
    for category_id, found in by_class.items():
        of_class = matches[category_id]
        recall = at_threshold(of_class, 0.0).recall or 0.0
        scores = np.array([0.0 if r.score is None else r.score for r in found])
        for r, precision in zip(found, precision_at_scores(of_class, scores), strict=True):
            yield r, recall if r.score is None else float(precision)


def _issue(
    record: ErrorRecord,
    *,
    split: str,
    file_name: str,
    names: Mapping[int, str],
    issue_score: float,
) -> LabelIssue:
    label, detection = record.annotation, record.detection
    located = label or detection
    assert located is not None  # a record has at least one of them
    return LabelIssue(
        reason=REASONS[record.type],
        split=split,
        file_name=file_name,
        image_id=record.image_id,
        annotation_id=label.id if label else None,
        labeled=names[label.category_id] if label else None,
        predicted=names[record.category_id] if detection else None,
        score=record.score,
        issue_score=issue_score,
        bbox_xywh=located.bbox_xywh,
    )
