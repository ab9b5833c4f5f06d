"""The learning rate over a training run."""

import math


def learning_rate_factor(step: int, total: int, warmup: int, schedule: str) -> float:
    """What the peak learning rate is multiplied with in a step, counted from 0.

    Linear warm-up, then constant, or a half cosine that would reach 0 after the last step
    (Loshchilov and Hutter 2016), or the inverse square root of the steps (Vaswani et al.
    2017), which is 1 at the end of the warm-up.

    Args:
        step: optimiser steps done.
        total: optimiser steps of the whole run.
        warmup: steps of warm-up.
        schedule: "cosine", "inverse_sqrt" or "constant".
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        return math.sqrt((warmup + 1) / (step + 1))
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
