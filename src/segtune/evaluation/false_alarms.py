"""False alarms: classes that are detected in images without any object of theirs."""

import math

import numpy as np

from segtune.dataset.coco import Split
from segtune.dataset.detections import Detections
from segtune.evaluation.arrays import Array


def false_alarm_counts(split: Split, detections: Detections, threshold: float) -> Array:
    """(images, classes, 2): whether the class is a negative, and whether it is detected anyway.

    Args:
        split: the ground truth.
        detections: of the model.
        threshold: confidence threshold of a detection.
    """
    counts = np.zeros((len(split.images), len(split.categories), 2), np.int64)
    for row, image in zip(counts, split.images, strict=True):
        for place, category in enumerate(split.categories):
            if not split.ground_truth(image.id, category.id):
                found = detections.of(image.id, category.id)
                row[place] = 1, any(d.score >= threshold for d in found)
    return counts


def false_alarm_rates(counts: Array) -> Array:
    """(..., classes) fraction of a class's negatives that are detected; NaN without negatives.

    Args:
        counts: (..., classes, 2), sums over images of `false_alarm_counts`.
    """
    negatives, alarms = counts[..., 0], counts[..., 1]
    return np.where(negatives > 0, alarms / np.maximum(negatives, 1), np.nan)


def false_alarms(split: Split, detections: Detections, threshold: float) -> dict[str, float | None]:
    """Per class, the fraction of its negatives that are detected; None without negatives.

    The arguments are those of `false_alarm_counts`.
    """
    return rates_by_class(split, false_alarm_counts(split, detections, threshold))


def rates_by_class(split: Split, counts: Array) -> dict[str, float | None]:
    """The result of `false_alarms`, from the counts of `false_alarm_counts`."""
    rates = false_alarm_rates(counts.sum(0)).tolist()
    return {
        category.name: None if math.isnan(rate) else rate
        for category, rate in zip(split.categories, rates, strict=True)
    }
