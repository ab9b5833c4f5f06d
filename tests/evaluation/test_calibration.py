"""Thresholds, curves and reliability: known answers, and a search of all thresholds."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from segtune.evaluation.assessment import match_detections
from segtune.evaluation.average_precision import score_detections
from segtune.evaluation.calibration import (
    Reliability,
    at_threshold,
    best_threshold,
    precision_at_scores,
    precision_recall,
    reliability,
)
from segtune.evaluation.matching import ClassMatches
from tests.scenes import random_case


def matches(scores: list[float], hits: list[int], objects: int) -> ClassMatches:
    found = np.tile(np.array(hits, bool), (10, 1))
    return ClassMatches(
        score=np.array(scores, float),
        image=np.zeros(len(scores), int),
        matched=found,
        counted=np.ones_like(found),
        objects=np.array([objects]),
    )


def test_the_threshold_is_where_f1_is_highest() -> None:
    # F1 from the top: 2/5, 4/6, 4/7, 6/8, 6/9 of 2TP / (detections + 4 objects).
    best = best_threshold(matches([0.9, 0.8, 0.7, 0.6, 0.5], [1, 1, 0, 1, 0], objects=4))
    assert best is not None
    assert best.threshold == 0.6
    assert (best.precision, best.recall, best.f1) == (0.75, 0.75, 0.75)


def test_equal_scores_pass_a_threshold_together() -> None:
    best = best_threshold(matches([0.9, 0.5, 0.5], [0, 1, 0], objects=1))
    assert best is not None and best.threshold == 0.5
    assert best.precision == pytest.approx(1 / 3)
    # Halfway through the ties F1 would be 1, but there is no such threshold.
    other = best_threshold(matches([0.9, 0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0, 0], objects=2))
    assert other is not None and other.threshold == 0.9


@pytest.mark.parametrize("seed", range(4))
def test_no_other_threshold_is_better(seed: int) -> None:
    split, detections = random_case(seed)
    for found in match_detections(split, detections, "mask"):
        best = best_threshold(found)
        assert best is not None and best.f1 is not None
        others = [at_threshold(found, float(t)).f1 or 0.0 for t in found.score]
        assert best.f1 == pytest.approx(max(others))


def test_without_objects_or_matches_there_is_no_best_threshold() -> None:
    assert best_threshold(matches([0.9], [0], objects=0)) is None
    assert best_threshold(matches([0.9], [0], objects=3)) is None
    found = best_threshold(matches([0.9, 0.8], [1, 0], objects=1))
    assert found is not None and found.threshold == 0.9


def test_precision_and_recall_at_a_threshold() -> None:
    found = at_threshold(matches([0.9, 0.8, 0.3], [1, 0, 1], objects=4), 0.5)
    assert (found.precision, found.recall) == (0.5, 0.25)
    assert found.f1 == pytest.approx(1 / 3)
    nothing = at_threshold(matches([0.3], [1], objects=0), 0.5)
    assert (nothing.precision, nothing.recall, nothing.f1) == (None, None, None)


def test_a_higher_score_is_never_worth_less() -> None:
    found = matches([0.9, 0.8, 0.7, 0.7, 0.2], [0, 1, 1, 1, 0], objects=4)
    precision = precision_at_scores(found, np.array([0.2, 0.9, 0.1, 0.7]))
    assert precision.tolist() == [3 / 5, 3 / 4, 0.0, 3 / 4]
    equal = matches([0.7, 0.7], [1, 0], objects=1)
    assert precision_at_scores(equal, np.array([0.7])).tolist() == [1 / 2]
    assert precision_at_scores(matches([], [], objects=1), np.array([0.5])).tolist() == [0.0]


def test_the_curve_holds_the_precision_at_each_recall() -> None:
    curve = precision_recall(matches([0.9, 0.8, 0.7], [1, 0, 1], objects=4), points=5)
    assert curve == pytest.approx([1, 1, 2 / 3, 0, 0])
    assert precision_recall(matches([0.9], [0], objects=0)) is None
    assert precision_recall(matches([], [], objects=2), points=3) == [0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_of_the_curve_is_pycocotools_ap50(seed: int) -> None:
    split, detections = random_case(seed)
    found = score_detections(split, detections, "mask")
    curves = [precision_recall(m) or [] for m in found.matches]
    assert np.mean(curves) == pytest.approx(found.summary.AP50, abs=1e-9)


def test_calibrated_scores_have_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    scores = np.sort(rng.random(40_000))[::-1]
    calibrated: Any = (rng.random(40_000) < scores).astype(int).tolist()
    error = reliability([matches(scores.tolist(), calibrated, 1)]).error
    assert error is not None and error < 0.02
    overconfident = reliability([matches([0.95] * 10, [1] * 5 + [0] * 5, 5)])
    (only,) = overconfident.bins
    assert asdict(only) == {"count": 10, "score": pytest.approx(0.95), "precision": 0.5}
    assert overconfident.error == pytest.approx(0.45)
    low_scores = matches([0.95] * 2 + [0.01] * 98, [1] + [0] * 99, 5)
    assert reliability([low_scores]).error == pytest.approx(0.45)
    assert reliability([matches([], [], 1)]) == Reliability(bins=[], error=None)
