"""Frozen weights in the precision that computes with them."""

import torch
from torch import nn

from segtune.lora.layers import LoraLinear, LoraMultiheadAttention
from segtune.model.sam3_package import Sam3Image

# Layers that autocast runs in its precision, so that their weights can be stored in it.
CAST_LAYERS = (
    *(nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.MultiheadAttention),
    *(LoraLinear, LoraMultiheadAttention),
)


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
