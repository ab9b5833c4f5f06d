"""The learning rate: warm-up, then one of three schedules."""

import math

import pytest
import torch

from segtune.training.optimizer import Schedule, learning_rate_factor, set_learning_rates


def factors(
    steps: range | tuple[int, ...], *, schedule: Schedule, warmup_steps: int = 10
) -> list[float]:
    return [
        learning_rate_factor(step, total_steps=110, warmup_steps=warmup_steps, schedule=schedule)
        for step in steps
    ]


def test_the_learning_rate_warms_up_and_falls() -> None:
    found = factors(range(110), schedule="cosine")
    assert found[:10] == pytest.approx([(n + 1) / 11 for n in range(10)])
    assert found[10] == 1.0
    assert found[60] == pytest.approx(0.5)
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.99)))


def test_it_can_stay_constant() -> None:
    assert factors((10, 109), schedule="constant") == [1.0, 1.0]


def test_it_can_fall_with_the_square_root_of_the_step() -> None:
    found = factors((9, 39, 89), schedule="inverse_sqrt", warmup_steps=9)
    assert found == pytest.approx([1.0, 0.5, 1 / 3])
    without_warmup = factors((0, 3), schedule="inverse_sqrt", warmup_steps=0)
    assert without_warmup == pytest.approx([1.0, 0.5])


def test_every_group_gets_its_own_learning_rate() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "peak": peak} for peak in (1.0, 2.0)]
    optimizer = torch.optim.AdamW(groups)
    set_learning_rates(optimizer, step=4, total_steps=110, warmup_steps=9, schedule="cosine")
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1.0]
