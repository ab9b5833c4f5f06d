"""The precision of forward passes on a device, decided in one place."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from segtune.lora.layers import LoraLinear, LoraMultiheadAttention
from segtune.model.sam3_package import Sam3Image

# Layers that autocast runs in its precision, so that their weights can be stored in it.
CAST_LAYERS = (
    *(nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.MultiheadAttention),
    *(LoraLinear, LoraMultiheadAttention),
)


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


def store_frozen_in(model: Sam3Image, dtype: torch.dtype) -> None:
    """Store the frozen weights that autocast converts anyway in its precision, in place.

    Outputs and gradients stay the same, bitwise; the memory of the weights is halved, and nothing
    converts them in each forward pass again. Norms, embeddings and adapters stay in float32, and
    so do the feed-forward layers of the decoder, which the package keeps out of autocast.

    Args:
        model: with its adapters; other parameters are frozen.
        dtype: of autocast on the model's device.
    """
    kept = {id(part) for layer in model.transformer.decoder.layers for part in layer.modules()}
    for module in model.modules():
        if isinstance(module, CAST_LAYERS) and id(module) not in kept:
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)
