"""Which images each optimizer step sees: the same for every number of processes.

An item of an epoch is an image and how often it has occurred before in that epoch.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

Item = tuple[int, int]  # (index of the image, its earlier occurrences in the epoch)


def repeat_factors(classes: Sequence[frozenset[int]], threshold: float) -> list[float]:
    """How often each image is seen per epoch, at least once.

    A class in a fraction f of the images has the repeat factor max(1, sqrt(threshold / f)),
    an image the largest factor of its classes (Gupta et al. 2019, "LVIS").

    Args:
        classes: the classes in each image.
        threshold: fraction of images below which a class counts as rare; 0 repeats nothing.
    """
    images = Counter(name for names in classes for name in names)
    factors = {c: max(1.0, (threshold * len(classes) / n) ** 0.5) for c, n in images.items()}
    return [max((factors[name] for name in names), default=1.0) for names in classes]


def epoch_length(factors: Sequence[float]) -> int:
    """Images per epoch, counting repetitions."""
    # Rounded first: a rounding error in the sum must not add an image.
    return int(np.ceil(round(sum(factors), 6)))


def epoch_order(factors: Sequence[float], seed: int, epoch: int) -> list[Item]:
    """All items of an epoch in a seeded order, with repetitions drawn by systematic sampling.

    Every epoch has the same length, and an image occurs as often as the integer part of its
    factor, or once more.
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
    factors: Sequence[float], *, batch_size: int, rank: int, processes: int, seed: int, epoch: int
) -> list[list[Item]]:
    """The items that one process sees in each optimizer step of an epoch.

    The last batch is filled up from the beginning of the order, so that every step has
    `batch_size` images.

    Returns:
        Per step, batch_size / processes items.
    """
    order = epoch_order(factors, seed, epoch)
    steps = -(-len(order) // batch_size)
    filled = [order[n % len(order)] for n in range(steps * batch_size)]
    return [filled[n * batch_size : (n + 1) * batch_size][rank::processes] for n in range(steps)]
