"""The adapters' values: copied, loaded, and averaged over the optimizer steps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segtune.lora.inject import lora_parameters


def adapter_values(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the adapters' parameters, on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in lora_parameters(model).items()}


def load_adapter_values(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set the adapters' parameters, in place."""
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            parameter.copy_(values[name])


def update_ema(
    average: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    *,
    decay: float,
    step: int,
) -> None:
    """Move an exponential moving average towards the parameters, in place.

    The decay grows from 0.1 to `decay`, so that the first steps do not linger.

    Args:
        average: by name; nothing is averaged where it is empty.
        parameters: those of the average among them.
        decay: per step, in the long run.
        step: optimizer steps done, this one included.
    """
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, value in average.items():
            value.lerp_(parameters[name], 1 - decay)


@contextmanager
def ema_weights(model: nn.Module, average: Mapping[str, Tensor]) -> Iterator[None]:
    """The averaged adapters in the model inside, the trained ones again afterwards.

    Without an average, the model keeps its own.
    """
    if not average:
        yield
        return
    trained = adapter_values(model)
    load_adapter_values(model, average)
    try:
        yield
    finally:
        load_adapter_values(model, trained)
