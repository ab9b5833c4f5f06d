"""The precision of forward passes on a device, decided in one place."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def autocast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU that computes in it, float16 on an older GPU, float32 elsewhere."""
    if device.type != "cuda":
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to the precision of the device."""
    dtype = autocast_dtype(device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def loss_scaler(device: torch.device) -> torch.amp.GradScaler:
    """Scales losses for float16, in which small gradients would be zero; elsewhere does nothing.

    Micikevicius et al. 2018, "Mixed Precision Training".
    """
    return torch.amp.GradScaler(device.type, enabled=autocast_dtype(device) == torch.float16)
