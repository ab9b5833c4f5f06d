"""The learning rate: warm-up, then one of three courses."""

import math

import pytest

from segtune.training.optimizer import learning_rate_factor


def test_the_learning_rate_warms_up_and_falls() -> None:
    factors = [learning_rate_factor(step, 110, 10, "cosine") for step in range(110)]
    assert factors[:10] == pytest.approx([(n + 1) / 11 for n in range(10)])
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))


def test_it_can_stay() -> None:
    assert [learning_rate_factor(step, 110, 10, "constant") for step in (10, 109)] == [1.0, 1.0]


def test_it_falls_with_the_root_of_the_steps() -> None:
    factors = [learning_rate_factor(step, 110, 9, "inverse_sqrt") for step in (9, 39, 89)]
    assert factors == pytest.approx([1.0, 0.5, 1 / 3])
    without_warm_up = [learning_rate_factor(step, 110, 0, "inverse_sqrt") for step in (0, 3)]
    assert without_warm_up == pytest.approx([1.0, 0.5])
