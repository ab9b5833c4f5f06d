"""Which images are seen when: the same for every number of processes.

An item of an epoch is an image and how often it has been seen before in that epoch.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

Item = tuple[int, int]  # (index of the image, its earlier occurrences in the epoch)


def repeat_factors(classes: Sequence[frozenset[int]], threshold: float) -> list[float]:
    """How often each image is seen per epoch, at least once.

    A class that a share f of the images shows is repeated max(1, sqrt(threshold / f))
    times, an image as often as its rarest class asks (Gupta et al. 2019, "LVIS").

    Args:
        classes: the classes that each image shows.
        threshold: the share below which a class is rare; 0 repeats nothing.
    """
    shown = Counter(name for names in classes for name in names)
    wanted = {c: max(1.0, (threshold * len(classes) / n) ** 0.5) for c, n in shown.items()}
    return [max((wanted[name] for name in names), default=1.0) for names in classes]


def epoch_length(factors: Sequence[float]) -> int:
    """Images per epoch, repeated ones as often as they are seen."""
    # Rounded first: a sum of ones must not become one more by its last bit.
    return int(np.ceil(round(sum(factors), 6)))


def epoch_order(factors: Sequence[float], seed: int, epoch: int) -> list[Item]:
    """All items of an epoch in a seeded order; what is over of a factor is drawn.

    The draw is systematic, so every epoch has the same length, and an image is seen as
    often as the whole part of its factor, or once more.
    """
    rng = np.random.default_rng([seed, epoch])
    length = epoch_length(factors)
    if length == len(factors):
        return [(int(index), 0) for index in rng.permutation(length)]
    ends = np.cumsum(factors) * (length / sum(factors))
    points = np.arange(length) + rng.random()
    indices = np.minimum(np.searchsorted(ends, points, side="right"), len(factors) - 1)
    seen: Counter[int] = Counter()
    order: list[Item] = []
    for index in rng.permutation(indices).tolist():
        order.append((index, seen[index]))
        seen[index] += 1
    return order


def local_steps(
    factors: Sequence[float], batch_size: int, rank: int, processes: int, seed: int, epoch: int
) -> list[list[Item]]:
    """The items that one process sees in each optimizer step of an epoch.

    The last batch is filled up from the beginning of the order, so that every step sees
    `batch_size` images.

    Returns:
        Per step, batch_size / processes items.
    """
    order = epoch_order(factors, seed, epoch)
    steps = -(-len(order) // batch_size)
    filled = [order[n % len(order)] for n in range(steps * batch_size)]
    return [filled[n * batch_size : (n + 1) * batch_size][rank::processes] for n in range(steps)]
