"""What to label next: doubts in bits, weak classes first, and no two images alike."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy

from segtune.evaluation import suggestion
from segtune.evaluation.suggestion import (
    ClassState,
    choose,
    image_uncertainty,
    nearest,
    uncertain_classes,
    uncertainty,
)

CLASSES = [ClassState("kelp", 0.3, 0.25), ClassState("urchin", 0.5, None)]


def unit(vectors: Any) -> Any:
    values = np.array(vectors, float)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def drawn(count: int, seed: int = 0) -> Any:
    """Vectors of images that have little in common."""
    return unit(np.random.default_rng(seed).normal(size=(count, 8)))


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.9])
def test_a_score_at_the_threshold_is_the_largest_doubt(threshold: float) -> None:
    scores = np.linspace(0.001, 0.999, 500)
    doubts = [uncertainty(score, threshold) for score in scores]
    assert scores[int(np.argmax(doubts))] == pytest.approx(threshold, abs=0.002)
    assert uncertainty(threshold, threshold) == pytest.approx(1)
    above = scores > threshold
    assert np.all(np.diff(np.array(doubts)[above]) < 0)
    assert np.all(np.diff(np.array(doubts)[~above]) > 0)


def test_at_a_threshold_of_one_half_it_is_the_binary_entropy_of_the_score() -> None:
    for score in (0.05, 0.2, 0.5, 0.7, 0.99):
        assert uncertainty(score, 0.5) == pytest.approx(entropy([score, 1 - score], base=2))


def test_scores_and_thresholds_of_zero_and_one_are_possible() -> None:
    for score in (0.0, 0.5, 1.0):
        for threshold in (0.0, 0.5, 1.0):
            assert 0 <= uncertainty(score, threshold) <= 1


def test_doubts_add_up_and_count_as_much_as_the_class_lacks() -> None:
    scores = {"kelp": [0.3, 0.3], "urchin": []}
    assert image_uncertainty(scores, CLASSES) == pytest.approx(2 * 0.75)
    assert image_uncertainty({"kelp": [], "urchin": [0.5]}, CLASSES) == pytest.approx(1)
    assert image_uncertainty({"kelp": [], "urchin": []}, CLASSES) == 0


def test_only_uncertain_detections_are_reasons() -> None:
    found = uncertain_classes({"kelp": [0.99, 0.25, 0.3], "urchin": [0.5, 0.5]}, CLASSES)
    assert [(one.name, one.scores) for one in found] == [
        ("urchin", [0.5, 0.5]),
        ("kelp", [0.3, 0.25]),
    ]
    assert found[0].uncertainty == pytest.approx(2)
    assert uncertain_classes({"kelp": [0.99], "urchin": [0.01]}, CLASSES) == []


def test_low_scores_do_not_count_whatever_the_threshold() -> None:
    low = [ClassState("kelp", 0.01, 0.25)]
    assert image_uncertainty({"kelp": [0.04, 0.01, 0.02]}, low) == 0
    assert uncertain_classes({"kelp": [0.04, 0.01, 0.02]}, low) == []


def test_the_most_uncertain_comes_first() -> None:
    doubts = np.array([1.0, 4.0, 0.1, 3.0, 2.0])
    assert choose(doubts, drawn(5), drawn(3, seed=1), count=4) == [1, 3, 4, 0]


def test_copies_are_suggested_once() -> None:
    originals = drawn(6)
    vectors = unit(np.concatenate([originals, originals, originals + 1e-3]))
    doubts = np.concatenate([np.full(6, 2.0), np.full(6, 2.1), np.full(6, 1.9)])
    chosen = choose(doubts, vectors, drawn(2, seed=1), count=6)
    assert sorted(place % 6 for place in chosen) == list(range(6))


def test_copies_of_labeled_images_come_last_and_exact_ones_never() -> None:
    labeled, new = drawn(4, seed=1), drawn(4)
    near = unit(labeled + 0.02)
    vectors = np.concatenate([labeled, near, new])
    doubts = np.array([9.0] * 8 + [1.0] * 4)
    assert sorted(choose(doubts, vectors, labeled, count=4)) == [8, 9, 10, 11]
    assert sorted(choose(doubts, vectors, labeled, count=12)) == list(range(4, 12))


def test_without_doubts_or_labeled_images_the_images_differ() -> None:
    vectors = unit([[1, 0, 0], [1, 0.01, 0], [0, 1, 0], [0, 1, 0.01], [0, 0, 1]])
    chosen = choose(np.zeros(5), vectors, np.empty((0, 3)), count=3)
    assert [sorted({0: 0, 1: 0, 2: 1, 3: 1, 4: 2}[place] for place in chosen)] == [[0, 1, 2]]


def test_only_the_most_uncertain_compete() -> None:
    doubts = np.array([1.0] * 8 + [0.9] * 20)
    assert max(choose(doubts, drawn(28), drawn(3, seed=1), count=2)) < 8


def test_the_nearest_is_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestion, "CHUNK", 3)
    vectors, others = drawn(10), drawn(7, seed=1)
    apart, places = nearest(vectors, others)
    pairs = 1 - vectors @ others.T
    assert apart == pytest.approx(pairs.min(1)) and list(places) == list(pairs.argmin(1))
