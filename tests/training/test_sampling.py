"""The order of an epoch: divided among processes, with rare classes repeated."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtune.training.sampling import Item, epoch_length, epoch_order, local_steps, repeat_factors


@settings(max_examples=60, deadline=None)
@given(
    factors=st.lists(st.sampled_from([1.0, 1.3, 2.0, 3.7]), min_size=1, max_size=30),
    per_process=st.integers(1, 4),
    processes=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_processes_divide_every_step(
    factors: list[float], per_process: int, processes: int, epoch: int
) -> None:
    def steps_of(rank: int, processes: int) -> list[list[Item]]:
        return local_steps(
            factors, batch_size=batch, rank=rank, processes=processes, seed=7, epoch=epoch
        )

    batch = per_process * processes
    alone = steps_of(0, 1)
    parts = [steps_of(rank, processes) for rank in range(processes)]
    assert all(len(step) == per_process for part in parts for step in part)
    assert len(alone) == -(-epoch_length(factors) // batch)
    for number, step in enumerate(alone):
        together = [item for part in parts for item in part[number]]
        assert sorted(together) == sorted(step)
    assert {index for step in alone for index, _ in step} == set(range(len(factors)))
    assert steps_of(0, 1) == alone


@settings(max_examples=60, deadline=None)
@given(factors=st.lists(st.floats(1, 5), min_size=1, max_size=30), epoch=st.integers(0, 3))
def test_an_image_is_seen_as_often_as_its_factor_requires(factors: list[float], epoch: int) -> None:
    order = epoch_order(factors, 3, epoch)
    seen = Counter(index for index, _ in order)
    assert len(order) == epoch_length(factors)
    # An epoch has an integer number of images, which may stretch every factor a little.
    stretch = len(order) / sum(factors)
    for index, factor in enumerate(factors):
        assert int(factor) <= seen[index] <= int(factor * stretch + 1e-6) + 1
    assert len(set(order)) == len(order)  # each occurrence has its own number


def test_over_many_epochs_the_factor_is_the_mean() -> None:
    factors = [1.0, 1.5, 2.25, 1.0, 1.25]
    orders = [epoch_order(factors, 0, epoch) for epoch in range(400)]
    seen = Counter(index for order in orders for index, _ in order)
    assert [seen[n] / 400 for n in range(5)] == pytest.approx(factors, abs=0.06)


def test_rare_classes_repeat_their_images() -> None:
    # Class 1 is in 16 of 100 images, class 2 in one, class 3 in all.
    classes = [
        frozenset({3, *([1] if n < 16 else []), *([2] if n == 99 else [])}) for n in range(100)
    ]
    factors = repeat_factors(classes, threshold=0.25)
    assert factors[0] == pytest.approx((0.25 / 0.16) ** 0.5)
    assert factors[99] == pytest.approx(5.0)
    assert factors[50] == 1.0
    assert repeat_factors(classes, threshold=0.0) == [1.0] * 100
    assert repeat_factors([frozenset()], threshold=0.5) == [1.0]


def test_the_order_differs_by_epoch_and_seed() -> None:
    orders = [
        local_steps([1.0] * 30, batch_size=5, rank=0, processes=1, seed=seed, epoch=epoch)
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert all(orders.count(order) == 1 for order in orders)
