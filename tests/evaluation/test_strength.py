"""Strengths: which is chosen, and what is retained of the base model's detections."""

from dataclasses import replace

import numpy as np
import pytest

from segtune.dataset.coco import Split
from segtune.dataset.detections import Detections
from segtune.evaluation.average_precision import average_precision
from segtune.evaluation.cgf1 import concept_counts, concept_scores
from segtune.evaluation.strength import (
    detected_as_truth,
    estimated_retention,
    estimated_score,
)
from segtune.evaluation.strength_curve import (
    Estimate,
    chosen_point,
)
from tests.scenes import detection, random_shapes, split_of
from tests.strength_curves import strength_curve

FALLING = strength_curve((0.0, 0.1, 1.0), (0.5, 0.3, 0.9), (0.8, 0.5, 0.8), (1.0, 0.6, 0.7))


@pytest.mark.parametrize(
    ("retain", "strength"), [(0.0, 1.0), (0.7, 1.0), (0.75, 0.8), (0.8, 0.8), (0.81, 0.5)]
)
def test_the_best_score_of_those_that_retain_enough(retain: float, strength: float) -> None:
    assert chosen_point(FALLING, retain).strength == strength


def test_a_better_score_at_a_lower_strength_is_taken() -> None:
    hump = strength_curve((0.0, 0.1, 1.0), (0.6, 0.55, 0.9), (0.8, 0.55, 0.85), (1.0, 0.5, 0.84))
    assert chosen_point(hump, 0.8).strength == 0.6


def test_the_most_retaining_where_nothing_retains_enough_but_not_the_base_model() -> None:
    assert chosen_point(FALLING, 0.95).strength == 0.5
    better_untrained = strength_curve((0.0, 0.7, 1.0), (0.4, 0.6, 0.9), (1.0, 0.5, 0.8))
    assert chosen_point(better_untrained, 0.5).strength == 0.4


def test_without_anything_to_retain_the_score_decides() -> None:
    unknown = strength_curve((0.0, 0.1, None), (0.5, 0.4, None), (1.0, 0.3, None))
    assert chosen_point(unknown, 1.0).strength == 0.5


def retention(split: Split, base: Detections, tuned: Detections) -> float:
    found = estimated_retention(detected_as_truth(split, base), tuned, resamples=50)
    assert found.value is not None and found.low is not None and found.high is not None
    assert found.low <= found.value <= found.high
    return found.value


def test_the_base_model_retains_all_of_itself() -> None:
    split, detections = random_shapes(3)
    unlabeled = replace(split, annotations={image.id: () for image in split.images})
    assert retention(unlabeled, detections, detections) == 1.0


def test_what_is_no_longer_detected_is_not_retained() -> None:
    split = split_of([], images=4)
    boxes = [(10, 10, 30, 30), (50, 50, 30, 30)]
    base = Detections(detection(n, 1, box, 0.9) for n in (1, 2, 3, 4) for box in boxes)
    half = Detections(found for found in base if found.bbox_xywh[0] < 40)
    assert retention(split, base, half) == pytest.approx(0.5, abs=0.01)
    assert retention(split, base, Detections()) == 0.0
    # What the base model is not sure of need not be retained.
    unsure = Detections([*half, *(replace(d, score=0.4) for d in base if d not in list(half))])
    assert retention(split, unsure, half) == 1.0


def test_an_outline_may_change_up_to_an_iou_of_one_half() -> None:
    split = split_of([], images=1)
    base = Detections([detection(1, 1, (10, 10, 40, 40), 0.9)])
    assert retention(split, base, Detections([detection(1, 1, (10, 10, 40, 22), 0.9)])) == 1.0
    assert retention(split, base, Detections([detection(1, 1, (10, 10, 40, 18), 0.9)])) == 0.0


def test_nothing_detected_is_nothing_to_retain() -> None:
    split = split_of([], images=2)
    truth = detected_as_truth(split, Detections())
    assert estimated_retention(truth, Detections(), resamples=10) == Estimate(None, None, None)


def test_the_score_is_that_of_an_evaluation() -> None:
    split, detections = random_shapes(1)
    score = estimated_score(split, detections, cgf1=False, resamples=200)
    assert score.value == pytest.approx(average_precision(split, detections, "mask").AP, abs=1e-9)
    cgf1 = estimated_score(split, detections, cgf1=True, resamples=200)
    assert cgf1.value == pytest.approx(
        concept_scores(concept_counts(split, detections, True)).cgf1, abs=1e-9
    )
    for found in (score, cgf1):
        assert found.low is not None and found.value is not None and found.high is not None
        assert found.low < found.value < found.high


def test_the_interval_narrows_with_more_images() -> None:
    rng = np.random.default_rng(0)

    def width(images: int) -> float:
        split = split_of([], images=images)
        base = [detection(n, 1, (10, 10, 30, 30), 0.9) for n in range(1, images + 1)]
        kept = [found for found in base if rng.random() < 0.5]
        found = estimated_retention(
            detected_as_truth(split, Detections(base)), Detections(kept), resamples=300
        )
        assert found.low is not None and found.high is not None
        return found.high - found.low

    assert width(200) < 0.6 * width(20)
