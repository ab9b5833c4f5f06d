"""How much a score, or a difference of two, depends on the choice of images: a bootstrap.

Images are resampled with replacement, the same resamples for all models; a class's objects and
detections come and go with their image. Percentile intervals follow Efron and Tibshirani
(1993), "An Introduction to the Bootstrap", chapter 13. The average precision of a resample is
what pycocotools computes on its images, without matching anything again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segtune.evaluation.arrays import Array
from segtune.evaluation.matching import ClassMatches
from segtune.evaluation.strength_curve import Estimate

RECALLS = np.linspace(0, 1, 101)
CONFIDENCE = 0.95
SEED = 0
# Resamples at once, at most, and numbers of detections times resamples: more of them take less
# time in Python, but what no longer fits into a processor's cache takes three times as long.
MAX_CHUNK, CHUNK_NUMBERS = 64, 2**17


@dataclass(frozen=True)
class Interval:
    """A difference of two scores and its 95% interval; None where nothing can be measured."""

    difference: float | None
    low: float | None
    high: float | None


def estimated_precision(classes: Sequence[ClassMatches], resamples: int) -> Estimate:
    """The AP over all classes of one model.

    Args:
        classes: per class, the matches of the model.
        resamples: number of resamples.
    """
    if not classes:
        return Estimate(None, None, None)
    images = len(classes[0].objects)
    values = (
        mean_over_classes(precisions(classes, draws))
        for draws in (np.ones((1, images), np.int64), resample_counts(images, resamples))
    )
    return Estimate(*_bounds(*values))


def estimated_statistic(
    counts: Array, statistic: Callable[[Array], Array], resamples: int
) -> Estimate:
    """A statistic of one model that follows from sums over images.

    Args:
        counts: (images, ...) of the model.
        statistic: from sums (draws, ...) to (draws,) values, NaN where unknown.
        resamples: number of resamples.
    """
    values = (
        statistic(_sums(draws, counts))
        for draws in (np.ones((1, len(counts)), np.int32), resample_counts(len(counts), resamples))
    )
    return Estimate(*_bounds(*values))


def paired_differences(
    base: Sequence[ClassMatches], tuned: Sequence[ClassMatches], resamples: int
) -> tuple[Interval, list[Interval]]:
    """Tuned minus base: of the AP over all classes, and of the AP of each class.

    Args:
        base: per class, the matches of one model.
        tuned: per class, the matches of the other on the same images.
        resamples: number of resamples; a thousand settle the second digit of the bounds.
    """
    images = len(base[0].objects)
    draws = resample_counts(images, resamples)
    everything = np.ones((1, images), np.int64)
    points = precisions(tuned, everything) - precisions(base, everything)  # (1, classes)
    spread = precisions(tuned, draws) - precisions(base, draws)  # (resamples, classes)
    return (
        _interval(mean_over_classes(points), mean_over_classes(spread)),
        [_interval(points[:, c], spread[:, c]) for c in range(len(base))],
    )


def paired_statistics(
    base: Array,
    tuned: Array,
    statistics: Callable[[Array], Mapping[str, Array]],
    *,
    resamples: int,
) -> dict[str, list[Interval]]:
    """Tuned minus base: of statistics that follow from sums over images.

    Args:
        base: (images, ...) counts of one model.
        tuned: (images, ...) counts of the other on the same images.
        statistics: from sums (draws, ...) to name -> (draws, statistics), NaN where unknown.
        resamples: number of resamples.

    Returns:
        Name -> the interval of each statistic.
    """
    everything = np.ones((1, len(base)), np.int32)
    draws = np.concatenate([everything, resample_counts(len(base), resamples)])
    values = [statistics(_sums(draws, counts)) for counts in (base, tuned)]
    spread = {name: values[1][name] - values[0][name] for name in values[0]}
    return {
        name: [_interval(column[:1], column[1:]) for column in found.T]
        for name, found in spread.items()
    }


def _sums(draws: Array, counts: Array) -> Array:
    # Matrix products of integers are slow; doubles hold counts exactly.
    flat = counts.reshape(len(counts), -1).astype(float)
    return (draws.astype(float) @ flat).reshape(len(draws), *counts.shape[1:])


def resample_counts(images: int, resamples: int) -> Array:
    """(resamples, images): how often each resample holds each image."""
    rng = np.random.default_rng(SEED)
    counts = rng.multinomial(images, np.full(images, 1 / images), size=resamples)
    return counts.astype(np.int32)


def precisions(classes: Sequence[ClassMatches], draws: Array) -> Array:
    """(draws, classes): AP of each draw of images; NaN where it holds no object of the class."""
    return np.stack([_class_precisions(matches, draws) for matches in classes], axis=1)


def _class_precisions(matches: ClassMatches, draws: Array) -> Array:
    size = max(1, min(MAX_CHUNK, CHUNK_NUMBERS // max(1, len(matches.score))))
    chunks = [draws[start : start + size] for start in range(0, len(draws), size)]
    return np.concatenate([_chunk_precisions(matches, chunk) for chunk in chunks])


def _chunk_precisions(matches: ClassMatches, draws: Array) -> Array:
    objects = draws @ matches.objects  # (R,)
    weights = np.ascontiguousarray(draws.T)[matches.image]  # (N, R)
    previous, all_counted = None, weights
    per_threshold = []
    with np.errstate(invalid="ignore", divide="ignore"):
        for found, counted in zip(matches.matched, matches.counted, strict=True):
            # Few detections match a crowd, so this is mostly the same at all thresholds.
            if previous is None or not np.array_equal(counted, previous):
                previous, all_counted = counted, _cumulated(weights * counted[:, None])
            hits = np.flatnonzero(found & counted)
            per_threshold.append(_interpolated(weights[hits], all_counted[hits], objects))
    values: Array = np.mean(per_threshold, axis=0)
    return np.where(objects > 0, values, np.nan)


def _interpolated(weights: Array, all_counted: Array, objects: Array) -> Array:
    """(R,) precision averaged over the 101 recalls, at one IoU threshold.

    Precision only rises at a hit, so the hits are enough.

    Args:
        weights: (hits, R), how often each draw holds each hit.
        all_counted: (hits, R), detections of each draw from the highest score to each hit.
        objects: (R,) objects of each draw.
    """
    if not len(weights):
        return np.zeros(weights.shape[1])
    true = _cumulated(weights)
    precision = np.ascontiguousarray((true / np.maximum(all_counted, 1)).T)
    recall = np.ascontiguousarray((true / objects).T)
    return np.array([_at_recalls(p, r) for p, r in zip(precision, recall, strict=True)])


def _cumulated(counts: Array) -> Array:
    # Of 32 bits: by default, sums have 64 and take twice as long.
    return np.cumsum(counts, axis=0, dtype=np.int32)


def _at_recalls(precision: Array, recall: Array) -> float:
    """Mean over the recalls of the highest precision at that recall or beyond."""
    places = np.searchsorted(recall, RECALLS)
    places = places[places < len(recall)]  # the others are not reached
    if not len(places):
        return 0.0
    highest = np.maximum.accumulate(np.maximum.reduceat(precision, places)[::-1])
    return float(highest.sum() / len(RECALLS))


def mean_over_classes(values: Array) -> Array:
    """(draws,) mean over the classes with a known value."""
    known = ~np.isnan(values)
    totals = np.where(known, values, 0).sum(axis=1)
    return np.where(known.any(axis=1), totals / np.maximum(known.sum(axis=1), 1), np.nan)


def _interval(point: Array, spread: Array) -> Interval:
    return Interval(*_bounds(point, spread))


def _bounds(point: Array, spread: Array) -> tuple[float | None, float | None, float | None]:
    """The value of (1,) a point, and the ends of the interval that (resamples,) others span."""
    known = spread[~np.isnan(spread)]
    if np.isnan(point[0]) or not len(known):
        return None, None, None
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(point[0]), float(low), float(high)
