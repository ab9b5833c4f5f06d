"""cgF1, the metric of the SAM 3 paper: are objects detected, and only where there are some?

An image and a prompt are one query. pmF1 ("positive micro F1", averaged over the IoU thresholds
0.50 to 0.95) measures how well objects are detected in the queries that have some; IL_MCC, the
Matthews correlation over all queries, how well the model tells these from the others. cgF1 is
their product. All lie between 0 and 1 (IL_MCC: -1 and 1); the paper reports cgF1 times 100.
The formulas, with their small constants, are those of `sam3.eval.cgf1_eval`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.detections import Detection, Detections
from segtune.evaluation.arrays import Array
from segtune.evaluation.matching import iou_matrix

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
CONFIDENCE_THRESHOLD = 0.5  # as in the paper
_T = len(IOU_THRESHOLDS)
_TRUE, _MISSED, _FALSE = (slice(n * _T, (n + 1) * _T) for n in range(3))
_TP, _FP, _FN, _TN = range(3 * _T, 3 * _T + 4)  # of images: has objects, has detections


@dataclass(frozen=True)
class ConceptScores:
    """The three scores of a model on a split."""

    cgf1: float
    pmf1: float
    il_mcc: float


def concept_counts(split: Split, detections: Detections, with_masks: bool) -> Array:
    """(images, 34) counts that cgF1 follows from, per image, so that images can be resampled.

    A query whose objects are not all annotated one by one (crowds; with masks, box-only
    objects, too) is left out, as the official evaluator leaves out queries that are not
    annotated exhaustively.

    Args:
        split: the ground truth.
        detections: of the model; those with a score below 0.5 do not count.
        with_masks: compare masks, else boxes.
    """
    counts = np.zeros((len(split.images), 3 * _T + 4), np.int64)
    for row, image in zip(counts, split.images, strict=True):
        for category in split.categories:
            objects = split.ground_truth(image.id, category.id)
            if any(a.iscrowd or (with_masks and not a.segmentation) for a in objects):
                continue
            found = detections.of(image.id, category.id)
            confident = [d for d in found if d.score >= CONFIDENCE_THRESHOLD]
            _add(row, image, objects, confident, with_masks=with_masks)
    return counts


def concept_values(counts: Array) -> dict[str, Array]:
    """cgF1, pmF1 and IL_MCC of summed counts.

    Args:
        counts: (..., 34), sums of rows of `concept_counts`.

    Returns:
        Name of a field of `ConceptScores` -> (...,) values.
    """
    true, missed, false = (counts[..., part].astype(float) for part in (_TRUE, _MISSED, _FALSE))
    precision, recall = true / (true + false + 1e-4), true / (true + missed + 1e-4)
    pmf1 = (2 * precision * recall / (precision + recall + 1e-4)).mean(-1)
    tp, fp, fn, tn = (counts[..., n].astype(float) for n in (_TP, _FP, _FN, _TN))
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    il_mcc = (tp * tn - fp * fn) / (spread + 1e-6)
    return {"cgf1": pmf1 * il_mcc, "pmf1": pmf1, "il_mcc": il_mcc}


def concept_scores(counts: Array) -> ConceptScores:
    """The scores over all images, from `concept_counts`."""
    values = concept_values(counts.sum(0))
    return ConceptScores(**{name: float(value) for name, value in values.items()})


def _add(
    row: Array,
    image: Image,
    objects: Sequence[Annotation],
    detections: Sequence[Detection],
    *,
    with_masks: bool,
) -> None:
    if not objects:
        row[_FP if detections else _TN] += 1
        return
    row[_TP if detections else _FN] += 1
    matched = 0
    if detections:
        no_regions = [False] * len(objects)
        ious = iou_matrix(image, detections, objects, regions=no_regions, with_masks=with_masks)
        best = ious[linear_sum_assignment(-ious)]
        matched = (best[:, None] >= IOU_THRESHOLDS).sum(0)
    row[_TRUE] += matched
    row[_MISSED] += len(objects) - matched
    row[_FALSE] += len(detections) - matched
