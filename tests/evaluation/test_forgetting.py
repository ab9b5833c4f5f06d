"""Detections of out-of-distribution prompts before and after: known answers."""

import pytest

from segtune.core.errors import DatasetError
from segtune.dataset.detections import Detections, PromptedDetections
from segtune.evaluation.forgetting import Retention, measure_forgetting
from tests.scenes import Box, detection, split_of

OBJECT: Box = (10, 10, 40, 40)
NEAR: Box = (12, 10, 40, 40)
FAR: Box = (60, 60, 30, 30)
PROMPTS = {1: "horse", 2: "car"}
SPLIT = split_of([], images=2)


def detected(*found: tuple[int, int, Box, float]) -> PromptedDetections:
    return PromptedDetections(PROMPTS, Detections(detection(*each) for each in found))


def retention(base: PromptedDetections, tuned: PromptedDetections) -> Retention:
    """Of the first prompt."""
    return measure_forgetting(SPLIT, base, tuned, threshold=0.5).per_prompt["horse"]


def test_what_is_detected_again_is_retained() -> None:
    before = detected((1, 1, OBJECT, 0.9), (2, 1, OBJECT, 0.9), (1, 1, FAR, 0.9))
    after = detected((1, 1, NEAR, 0.6), (1, 1, (0, 0, 5, 5), 0.9))
    assert retention(before, after) == Retention(before=3, after=2, retained=1, fraction=1 / 3)
    assert retention(before, before).fraction == 1.0


def test_another_image_another_prompt_and_a_low_score_retain_nothing() -> None:
    before = detected((1, 1, OBJECT, 0.9))
    for after in ((2, 1, OBJECT, 0.9), (1, 2, OBJECT, 0.9), (1, 1, OBJECT, 0.4)):
        assert retention(before, detected(after)).retained == 0
    assert retention(detected(), detected((1, 1, OBJECT, 0.9))).fraction is None


def test_a_detection_retains_only_one() -> None:
    twice = detected((1, 1, OBJECT, 0.9), (1, 1, NEAR, 0.8))
    assert retention(twice, detected((1, 1, OBJECT, 0.9))).retained == 1
    assert retention(detected((1, 1, OBJECT, 0.9)), twice).retained == 1


def test_different_prompts_cannot_be_compared() -> None:
    other = PromptedDetections({1: "horse"}, Detections())
    with pytest.raises(DatasetError, match="given different prompts"):
        measure_forgetting(SPLIT, detected(), other, threshold=0.5)


def test_prompts_are_summed() -> None:
    before = detected((1, 1, OBJECT, 0.9), (1, 2, OBJECT, 0.9))
    found = measure_forgetting(SPLIT, before, detected((1, 2, OBJECT, 0.9)), threshold=0.5)
    assert found.total == Retention(before=2, after=1, retained=1, fraction=0.5)
    assert found.confidence_threshold == 0.5
