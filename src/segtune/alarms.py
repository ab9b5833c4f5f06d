"""False alarms: classes that are detected on pictures without them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segtune.coco import Split

Array = npt.NDArray[Any]
Result = Mapping[str, Any]


def alarm_counts(split: Split, results: Sequence[Result], score: float) -> Array:
    """(pictures, classes, 2): is the class absent, and is it detected all the same.

    Args:
        split: the ground truth.
        results: detections in COCO's results format.
        score: a detection counts from this score on.
    """
    fired = {(r["image_id"], r["category_id"]) for r in results if r["score"] >= score}
    counts = np.zeros((len(split.images), len(split.categories), 2), np.int64)
    for row, image in zip(counts, split.images, strict=True):
        present = {a.category_id for a in split.annotations[image.id]}
        for place, category in enumerate(split.categories):
            if category.id not in present:
                row[place] = 1, (image.id, category.id) in fired
    return counts


def alarm_shares(counts: Array) -> Array:
    """(..., classes) share of the pictures without a class in which it is detected.

    Args:
        counts: (..., classes, 2), sums over the pictures of `alarm_counts`.

    Returns:
        NaN for a class that no picture lacks.
    """
    lacking, alarms = counts[..., 0], counts[..., 1]
    return np.where(lacking > 0, alarms / np.maximum(lacking, 1), np.nan)


def false_alarms(split: Split, results: Sequence[Result], score: float) -> dict[str, float | None]:
    """Per class, the share of pictures without it in which it is detected all the same.

    None for a class that no picture lacks. The arguments are those of `alarm_counts`.
    """
    return shares_by_class(split, alarm_counts(split, results, score))


def shares_by_class(split: Split, counts: Array) -> dict[str, float | None]:
    """What `false_alarms` says, from the counts of `alarm_counts`."""
    shares = alarm_shares(counts.sum(0)).tolist()
    return {
        category.name: None if math.isnan(share) else share
        for category, share in zip(split.categories, shares, strict=True)
    }
