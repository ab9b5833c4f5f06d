"""Confidence thresholds, precision and recall, and how well scores are calibrated.

All of it follows from which detections match an object at an IoU of 0.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segtune.evaluation.arrays import Array
from segtune.evaluation.matching import ClassMatches

BINS = 10  # of scores, from 0 to 1
MIN_SCORE = 0.05  # below it there are many detections, nearly all of them wrong


@dataclass(frozen=True)
class AtThreshold:
    """A class's detections at a confidence threshold; None where a divisor is zero."""

    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Bin:
    """Detections with similar scores."""

    count: int
    score: float  # mean
    precision: float


@dataclass(frozen=True)
class Reliability:
    """Mean scores of detections, and their precision."""

    bins: list[Bin]
    error: float | None  # expected calibration error: mean |score - precision| over detections


def best_threshold(matches: ClassMatches) -> AtThreshold | None:
    """The confidence threshold with the highest F1; None for a class without objects or matches."""
    scores, hits, counted = _ranked(matches)
    objects = int(matches.objects.sum())
    if not objects or not hits.any():
        return None
    f1 = 2 * np.cumsum(hits) / (np.cumsum(counted) + objects)
    best = int(np.argmax(np.where(_last_of_ties(scores), f1, -1.0)))
    return at_threshold(matches, float(scores[best]))


def at_threshold(matches: ClassMatches, threshold: float) -> AtThreshold:
    """Precision, recall and F1 of the detections that reach a confidence threshold."""
    scores, hits, counted = _ranked(matches)
    passed = scores >= threshold
    true, all_passed = int(hits[passed].sum()), int(counted[passed].sum())
    objects = int(matches.objects.sum())
    return AtThreshold(
        threshold=threshold,
        precision=true / all_passed if all_passed else None,
        recall=true / objects if objects else None,
        f1=2 * true / (all_passed + objects) if all_passed + objects else None,
    )


def precision_at_scores(matches: ClassMatches, scores: Array) -> Array:
    """(n,) precision of a class's detections with at least each of (n,) scores.

    Where a lower threshold has a higher precision, that one is taken: a higher score is never
    worth less, and the few detections at the top say little.
    """
    ranked, hits, counted = _ranked(matches)
    precision = np.cumsum(hits) / np.maximum(np.cumsum(counted), 1)
    together = np.where(_last_of_ties(ranked), precision, 0.0)
    highest = np.append(np.maximum.accumulate(together[::-1])[::-1], 0.0)
    return highest[np.searchsorted(-ranked, -scores)]


def precision_recall(matches: ClassMatches, points: int = 101) -> list[float] | None:
    """Highest precision at or beyond recalls from 0 to 1 in equal steps; None without objects."""
    _, hits, counted = _ranked(matches)
    objects = int(matches.objects.sum())
    if not objects:
        return None
    recall = np.cumsum(hits) / objects
    precision = np.cumsum(hits) / np.maximum(np.cumsum(counted), 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    values: list[float] = envelope[np.searchsorted(recall, np.linspace(0, 1, points))].tolist()
    return values


def reliability(classes: Sequence[ClassMatches]) -> Reliability:
    """Mean score and precision in ten equal bins, and the expected calibration error.

    Detections that score below 0.05 are left out. The error is that of Guo et al. 2017, "On
    Calibration of Modern Neural Networks".
    """
    ranked = [_ranked(matches) for matches in classes]
    scores, hits, counted = (np.concatenate([r[n] for r in ranked]) for n in range(3))
    considered = counted & (scores >= MIN_SCORE)
    scores, hits = scores[considered], hits[considered]
    places = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = [
        Bin(int(inside.sum()), float(scores[inside].mean()), float(hits[inside].mean()))
        for place in range(BINS)
        for inside in [places == place]
        if inside.any()
    ]
    total = sum(found.count for found in bins)
    error = sum(found.count * abs(found.score - found.precision) for found in bins)
    return Reliability(bins, error / total if total else None)


def _ranked(matches: ClassMatches) -> tuple[Array, Array, Array]:
    """Scores, hits and what counts, at an IoU of 0.5, highest score first."""
    return matches.score, matches.matched[0] & matches.counted[0], matches.counted[0]


def _last_of_ties(scores: Array) -> Array:
    # Equal scores pass a threshold together.
    return np.append(scores[1:] != scores[:-1], True)[: len(scores)]
