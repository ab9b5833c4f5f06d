"""What is kept of other words: known answers."""

from typing import Any

import pytest

from segtune.core.errors import DatasetError
from segtune.evaluation.forgetting import forgetting
from segtune.evaluation.results import PromptedResults
from tests.evaluation.test_average_precision import Box, detection

HERE: Box = (10, 10, 40, 40)
NEAR: Box = (12, 10, 40, 40)
FAR: Box = (60, 60, 30, 30)
PROMPTS = {1: "horse", 2: "car"}


def asked(*found: tuple[int, int, Box, float]) -> PromptedResults:
    return PromptedResults(PROMPTS, [detection(*where) for where in found])


def compared(
    base: PromptedResults, tuned: PromptedResults, prompt: str = "horse"
) -> dict[str, Any]:
    values: dict[str, Any] = forgetting(base, tuned, 0.5)["per_prompt"][prompt]
    return values


def test_what_is_found_again_is_kept() -> None:
    before = asked((1, 1, HERE, 0.9), (2, 1, HERE, 0.9), (1, 1, FAR, 0.9))
    after = asked((1, 1, NEAR, 0.6), (1, 1, (0, 0, 5, 5), 0.9))
    assert compared(before, after) == {"before": 3, "after": 2, "kept": 1, "kept_share": 1 / 3}
    assert compared(before, before)["kept_share"] == 1.0


def test_another_image_another_word_and_a_low_score_keep_nothing() -> None:
    before = asked((1, 1, HERE, 0.9))
    for after in ((2, 1, HERE, 0.9), (1, 2, HERE, 0.9), (1, 1, HERE, 0.4)):
        assert compared(before, asked(after))["kept"] == 0
    assert compared(asked(), asked((1, 1, HERE, 0.9)))["kept_share"] is None


def test_one_detection_keeps_one() -> None:
    twice = asked((1, 1, HERE, 0.9), (1, 1, NEAR, 0.8))
    assert compared(twice, asked((1, 1, HERE, 0.9)))["kept"] == 1
    assert compared(asked((1, 1, HERE, 0.9)), twice)["kept"] == 1


def test_other_words_cannot_be_compared() -> None:
    with pytest.raises(DatasetError, match="asked other words"):
        forgetting(asked(), PromptedResults({1: "horse"}, []), 0.5)


def test_all_prompts_are_summed() -> None:
    before = asked((1, 1, HERE, 0.9), (1, 2, HERE, 0.9))
    found = forgetting(before, asked((1, 2, HERE, 0.9)), 0.5)
    assert found["all"] == {"before": 2, "after": 1, "kept": 1, "kept_share": 0.5}
    assert found["score"] == 0.5
