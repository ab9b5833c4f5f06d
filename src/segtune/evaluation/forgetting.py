"""Forgetting: which detections of out-of-distribution prompts survive fine-tuning."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_utils

from segtune.core.errors import DatasetError
from segtune.dataset.coco import Split
from segtune.dataset.detections import Detection, PromptedDetections
from segtune.evaluation.matching import MATCH_IOU, match_greedily


@dataclass(frozen=True)
class Retention:
    """Detections of a prompt before and after fine-tuning."""

    before: int
    after: int
    retained: int  # detected before and, with an IoU of at least 0.5, after
    fraction: float | None  # retained, of those before; None without any before


@dataclass(frozen=True)
class Forgetting:
    """What became of the base model's detections of out-of-distribution prompts."""

    confidence_threshold: float
    total: Retention
    per_prompt: dict[str, Retention]


def measure_forgetting(
    split: Split, base: PromptedDetections, tuned: PromptedDetections, *, threshold: float
) -> Forgetting:
    """Compare the detections of two models for the same prompts in the same images.

    The base model's detections are not ground truth: where one was wrong, losing it is right.
    But a gently fine-tuned model detects much the same objects as before.

    Args:
        split: the images.
        base: detections before.
        tuned: detections after.
        threshold: confidence threshold of both.

    Raises:
        DatasetError: when the prompts differ.
    """
    if base.prompts != tuned.prompts:
        raise DatasetError(
            "the two models were given different prompts", fix="Run segtune.predict again for both"
        )
    per_prompt = {
        prompt: _prompt_retention(split, base, tuned, category_id=number, threshold=threshold)
        for number, prompt in base.prompts.items()
    }
    rows = per_prompt.values()
    total = _with_fraction(
        before=sum(row.before for row in rows),
        after=sum(row.after for row in rows),
        retained=sum(row.retained for row in rows),
    )
    return Forgetting(threshold, total, per_prompt)


def _prompt_retention(
    split: Split,
    base: PromptedDetections,
    tuned: PromptedDetections,
    *,
    category_id: int,
    threshold: float,
) -> Retention:
    before = after = retained = 0
    for image in split.images:
        pairs = [model.detections.of(image.id, category_id) for model in (base, tuned)]
        old, new = ([d for d in found if d.score >= threshold] for found in pairs)
        before, after = before + len(old), after + len(new)
        retained += _count_matches(old, new)
    return _with_fraction(before=before, after=after, retained=retained)


def _with_fraction(*, before: int, after: int, retained: int) -> Retention:
    return Retention(before, after, retained, fraction=retained / before if before else None)


def _count_matches(before: Sequence[Detection], after: Sequence[Detection]) -> int:
    if not before or not after:
        return 0
    ious = mask_utils.iou([d.rle for d in before], [d.rle for d in after], [0] * len(after))
    return len(match_greedily(ious, np.ones_like(ious, bool), MATCH_IOU))
