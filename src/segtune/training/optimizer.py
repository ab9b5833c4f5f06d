"""The learning rate over a training run."""

import math

import torch

from segtune.core.config import TrainSettings
from segtune.lora.inject import lora_parameters
from segtune.lora.targets import component_of
from segtune.model.sam3_package import Sam3Image


def learning_rate_factor(step: int, total: int, warmup: int, schedule: str) -> float:
    """What the peak learning rate is multiplied with in a step, counted from 0.

    Linear warm-up, then constant, or a half cosine that would reach 0 after the last step
    (Loshchilov and Hutter 2016), or the inverse square root of the steps (Vaswani et al.
    2017), which is 1 at the end of the warm-up.

    Args:
        step: optimizer steps done.
        total: optimizer steps of the whole run.
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


def build_optimizer(model: Sam3Image, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW over the adapters, with one group and peak learning rate per component."""
    members: dict[str, list[torch.nn.Parameter]] = {}
    for name, parameter in lora_parameters(model).items():
        members.setdefault(component_of(name), []).append(parameter)
    peaks = {name: lora.learning_rate for name, lora in settings.lora.items()}
    groups = [
        {"params": found, "component": name, "peak": peaks[name] or settings.learning_rate}  # type: ignore[index]
        for name, found in members.items()
    ]
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
