"""What a score is worth: thresholds, precision and recall, and whether scores can be trusted.

All of it follows from which detections met an object at an IoU of 0.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segtune.matches import ClassMatches

Array = npt.NDArray[Any]

BINS = 10  # of scores, from 0 to 1
LOWEST_SCORE = 0.05  # of a detection that says anything


@dataclass(frozen=True)
class AtThreshold:
    """One class's detections from a score on; None where there is nothing to divide by."""

    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None


def best_threshold(matches: ClassMatches) -> AtThreshold | None:
    """The score from which on F1 is highest; None for a class without objects or hits."""
    scores, hits, counted = _ranked(matches)
    objects = int(matches.objects.sum())
    if not objects or not hits.any():
        return None
    f1 = 2 * np.cumsum(hits) / (np.cumsum(counted) + objects)
    best = int(np.argmax(np.where(_last_of_equals(scores), f1, -1.0)))
    return at_threshold(matches, float(scores[best]))


def at_threshold(matches: ClassMatches, threshold: float) -> AtThreshold:
    """Precision, recall and F1 of the detections from a score on."""
    scores, hits, counted = _ranked(matches)
    passed = scores >= threshold
    true, all_passed = int(hits[passed].sum()), int(counted[passed].sum())
    objects = int(matches.objects.sum())
    return AtThreshold(
        threshold,
        true / all_passed if all_passed else None,
        true / objects if objects else None,
        2 * true / (all_passed + objects) if all_passed + objects else None,
    )


def trust(matches: ClassMatches, score: float) -> float:
    """Precision of a class's detections from a score on, or from a lower one if it is higher.

    A higher score never deserves less trust, and the few highest tell little alone.
    """
    scores, hits, counted = _ranked(matches)
    precision = np.cumsum(hits) / np.maximum(np.cumsum(counted), 1)
    together = np.where(_last_of_equals(scores), precision, 0.0)
    return float(together[np.searchsorted(-scores, -score) :].max(initial=0.0))


def precision_recall(matches: ClassMatches, points: int = 101) -> list[float] | None:
    """Highest precision at recalls from 0 to 1 in equal steps; None without objects."""
    _, hits, counted = _ranked(matches)
    objects = int(matches.objects.sum())
    if not objects:
        return None
    recall = np.cumsum(hits) / objects
    precision = np.cumsum(hits) / np.maximum(np.cumsum(counted), 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    values: list[float] = envelope[np.searchsorted(recall, np.linspace(0, 1, points))].tolist()
    return values


def reliability(classes: Sequence[ClassMatches]) -> dict[str, Any]:
    """Scores beside the share of detections that are right, in ten equal bins of scores.

    Detections below 0.05 are left out: there are many, all rightly unsure.

    Returns:
        `bins`, each with `count`, mean `score` and `precision`, and `error`, the expected
        calibration error (Guo et al. 2017): the mean of |score - precision| weighted by count.
    """
    ranked = [_ranked(matches) for matches in classes]
    scores, hits, counted = (np.concatenate([r[n] for r in ranked]) for n in range(3))
    said = counted & (scores >= LOWEST_SCORE)
    scores, hits = scores[said], hits[said]
    places = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = [
        {
            "count": int(inside.sum()),
            "score": float(scores[inside].mean()),
            "precision": float(hits[inside].mean()),
        }
        for place in range(BINS)
        for inside in [places == place]
        if inside.any()
    ]
    total = sum(found["count"] for found in bins)
    error = sum(found["count"] * abs(found["score"] - found["precision"]) for found in bins)
    return {"bins": bins, "error": error / total if total else None}


def thresholds_of(
    names: Mapping[int, str], valid: Sequence[ClassMatches] | None
) -> dict[str, float | None]:
    """Class name -> the best threshold on the valid split, None where nothing was found there."""
    found = [best_threshold(matches) for matches in valid] if valid else [None] * len(names)
    return {
        name: best.threshold if best else None
        for name, best in zip(names.values(), found, strict=True)
    }


def _ranked(matches: ClassMatches) -> tuple[Array, Array, Array]:
    """Scores, hits and what counts, at an IoU of 0.5, best score first."""
    return matches.score, matches.found[0] & matches.counted[0], matches.counted[0]


def _last_of_equals(scores: Array) -> Array:
    # Equal scores pass a threshold together.
    return np.append(scores[1:] != scores[:-1], True)[: len(scores)]
