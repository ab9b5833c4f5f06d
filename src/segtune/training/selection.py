"""Scores on the valid split, and the best epoch by them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from segtune.dataset.coco import Split, has_masks
from segtune.dataset.detections import Detections
from segtune.evaluation.average_precision import average_precision_per_class
from segtune.evaluation.cgf1 import concept_counts, concept_scores
from segtune.training.run import Position


@dataclass(frozen=True)
class ValidScores:
    """Scores of one epoch; 0 for what cannot be measured, per class left out instead."""

    box_ap: float
    mask_ap: float | None  # None without masks
    cgf1: float  # of masks where there are some
    ap_per_class: dict[str, float]  # of masks where there are some

    def score(self, select_by: Literal["AP", "cgF1"]) -> float:
        """The score that epochs are compared by."""
        if select_by == "cgF1":
            return self.cgf1
        return self.box_ap if self.mask_ap is None else self.mask_ap

    def totals(self) -> dict[str, float]:
        """The scores over all classes, under the names that the history has."""
        masks = {} if self.mask_ap is None else {"mask_AP": self.mask_ap}
        return {"box_AP": self.box_ap, **masks, "cgF1": self.cgf1}

    def to_record(self) -> dict[str, Any]:
        """All scores, as the history has them."""
        return {**self.totals(), "per_class": self.ap_per_class}


def valid_scores(valid: Split, grid: Split, detections: Detections) -> ValidScores:
    """Box and mask AP and cgF1 of detections on the valid split, and AP per class.

    Args:
        valid: the ground truth, with which boxes are compared.
        grid: the same as `on_grid` has it, with which masks are compared.
        detections: with boxes in pixels of the images, and masks on their grids.
    """
    with_masks = has_masks(valid)
    boxes = average_precision_per_class(valid, detections, "box")
    masks = average_precision_per_class(grid, detections, "mask") if with_masks else None
    concepts = concept_scores(concept_counts(grid if with_masks else valid, detections, with_masks))
    per_class = boxes if masks is None else masks
    return ValidScores(
        box_ap=_mean(boxes),
        mask_ap=None if masks is None else _mean(masks),
        cgf1=concepts.cgf1,
        ap_per_class={name: value for name, value in per_class.items() if value is not None},
    )


def _mean(per_class: Mapping[str, float | None]) -> float:
    known = [value for value in per_class.values() if value is not None]
    return sum(known) / len(known) if known else 0.0


def note_score(position: Position, score: float) -> bool:
    """Record the score of the epoch that has just ended; true when no epoch was better.

    Epoch 0, the base model, only sets the score to compare with.
    """
    if position.epoch == 0:
        position.base_score = score
        return False
    position.validations_since_best += 1
    if score > position.best_score:
        position.validations_since_best = 0
    if score < position.best_score:
        return False
    position.best_score, position.best_epoch = score, position.epoch
    return True
