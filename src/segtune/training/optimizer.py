"""AdamW over the adapters, and its learning rates over a training run."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from segtune.core.config import TrainSettings
from segtune.lora.inject import lora_parameters
from segtune.lora.targets import component_of
from segtune.model.sam3_package import Sam3Image

Schedule = Literal["cosine", "inverse_sqrt", "constant"]


def learning_rate_factor(
    step: int, *, total_steps: int, warmup_steps: int, schedule: Schedule
) -> float:
    """The factor by which the peak learning rate is multiplied in a step, counted from 0.

    Linear warm-up, then constant, or a half cosine that would reach 0 after the last step
    (Loshchilov and Hutter 2016), or the inverse square root of the step (Vaswani et al.
    2017), scaled to be 1 at the end of the warm-up.

    Args:
        step: optimizer steps done.
        total_steps: optimizer steps of the whole run.
        warmup_steps: optimizer steps of the warm-up.
        schedule: of the steps after it.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        return math.sqrt((warmup_steps + 1) / (step + 1))
    return 0.5 * (
        1 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps))
    )


def build_optimizer(model: Sam3Image, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW over the adapters, with one parameter group and peak learning rate per component."""
    members: dict[str, list[nn.Parameter]] = {}
    for name, parameter in lora_parameters(model).items():
        members.setdefault(component_of(name), []).append(parameter)
    peaks: dict[str, float | None] = {
        name: lora.learning_rate for name, lora in settings.lora.items()
    }
    groups = [
        {"params": parameters, "component": name, "peak": peaks[name] or settings.learning_rate}
        for name, parameters in members.items()
    ]
    # Otherwise a CPU takes a dozen operations for every matrix; a GPU takes few in any case.
    fused = all(p.device.type == "cpu" for ps in members.values() for p in ps) or None
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=fused)


def set_learning_rates(
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    total_steps: int,
    warmup_steps: int,
    schedule: Schedule,
) -> None:
    """Set every group of `build_optimizer` to its learning rate in a step, counted from 0.

    The arguments are those of `learning_rate_factor`.
    """
    factor = learning_rate_factor(
        step, total_steps=total_steps, warmup_steps=warmup_steps, schedule=schedule
    )
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def trainable(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def undo_of(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """A function that undoes what happens from now on to the parameters and the state.

    AdamW allocates memory between one update and the next, so it may fail with some of them done.
    """
    states = [value for state in optimizer.state.values() for value in state.values()]
    values: list[Tensor] = [*trainable(optimizer), *states]
    # Few large copies: thousands of small ones would take longer than the step itself.
    flat = {
        device: torch.cat([v.detach().flatten() for v in values if v.device == device])
        for device in {value.device for value in values}
    }
    known = set(optimizer.state)

    def undo() -> None:
        for device, copies in flat.items():
            changed = [value for value in values if value.device == device]
            parts = copies.split([value.numel() for value in changed])
            for value, part in zip(changed, parts, strict=True):
                value.data.copy_(part.view(value.shape))
        for parameter in optimizer.state.keys() - known:
            del optimizer.state[parameter]

    return undo
