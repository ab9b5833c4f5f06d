"""cgF1, the metric of the SAM 3 paper: are things found, and only where there are some?

A picture and a prompt are one question. pmF1 says how well the objects are found where there
are some ("positive micro F1", averaged over the IoU thresholds 0.50 to 0.95); IL_MCC, the
Matthews correlation over all questions, whether the model knows where there are none. cgF1
is their product. All are between 0 and 1 (IL_MCC from -1); the paper states cgF1 times 100.
The formulas, with their small constants, are those of `sam3.eval.cgf1_eval`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from segtune.coco import Annotation, Image, Split
from segtune.ious import ious

Array = npt.NDArray[Any]
Result = Mapping[str, Any]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
SCORE = 0.5  # of the detections that count, as the paper has it
NAMES = ("cgF1", "pmF1", "IL_MCC")
_T = len(IOU_THRESHOLDS)
_TRUE, _MISSED, _FALSE = (slice(n * _T, (n + 1) * _T) for n in range(3))
_YES_YES, _NO_YES, _YES_NO, _NO_NO = range(3 * _T, 3 * _T + 4)  # is there any, was any found


def concept_counts(split: Split, results: Iterable[Result], with_masks: bool) -> Array:
    """(pictures, 34) what cgF1 is made of, per picture, so that pictures can be resampled.

    A question whose objects are not all known one by one (crowds; with masks, also objects
    with a box alone) is left out, as the official evaluator leaves out what is not
    exhaustively labelled.

    Args:
        split: the ground truth.
        results: detections in COCO's results format; those below 0.5 do not count.
        with_masks: compare masks, else boxes.
    """
    found: dict[tuple[int, int], list[Result]] = {}
    for result in results:
        if result["score"] >= SCORE:
            found.setdefault((result["image_id"], result["category_id"]), []).append(result)
    counts = np.zeros((len(split.images), 3 * _T + 4), np.int64)
    for row, image in zip(counts, split.images, strict=True):
        for category in split.categories:
            objects = [a for a in split.annotations[image.id] if a.category_id == category.id]
            if any(a.iscrowd or (with_masks and not a.segmentation) for a in objects):
                continue
            detections = found.get((image.id, category.id), [])
            _add(row, image, objects, detections, with_masks)
    return counts


def concept_scores(counts: Array) -> dict[str, Array]:
    """cgF1, pmF1 and IL_MCC of summed counts.

    Args:
        counts: (..., 34), sums of rows of `concept_counts`.

    Returns:
        Name -> (...,) values.
    """
    true, missed, false = (counts[..., part].astype(float) for part in (_TRUE, _MISSED, _FALSE))
    precision, recall = true / (true + false + 1e-4), true / (true + missed + 1e-4)
    pm_f1 = (2 * precision * recall / (precision + recall + 1e-4)).mean(-1)
    tp, fp, fn, tn = (counts[..., n].astype(float) for n in (_YES_YES, _NO_YES, _YES_NO, _NO_NO))
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    il_mcc = (tp * tn - fp * fn) / (spread + 1e-6)
    return dict(zip(NAMES, (pm_f1 * il_mcc, pm_f1, il_mcc), strict=True))


def _add(
    row: Array,
    image: Image,
    objects: Sequence[Annotation],
    detections: Sequence[Result],
    with_masks: bool,
) -> None:
    if not objects:
        row[_NO_YES if detections else _NO_NO] += 1
        return
    row[_YES_YES if detections else _YES_NO] += 1
    met = 0
    if detections:
        overlaps = ious(image, detections, objects, [False] * len(objects), with_masks)
        best = overlaps[linear_sum_assignment(-overlaps)]
        met = (best[:, None] >= IOU_THRESHOLDS).sum(0)
    row[_TRUE] += met
    row[_MISSED] += len(objects) - met
    row[_FALSE] += len(detections) - met
