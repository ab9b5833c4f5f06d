"""The frozen first blocks of the vision trunk, run once for an image instead of in every step."""

import torch
from torch import Tensor, nn

from segtune.dataset.batch import normalized
from segtune.model.forward import evaluating
from segtune.model.precision import autocast_dtype, mixed_precision
from segtune.model.sam3_package import Sam3Image


def stored_dtype(device: torch.device) -> torch.dtype:
    """In which activations are stored: float32 where training computes in it, else bfloat16.

    Between blocks they are in float32 even with mixed precision, and may be beyond float16; the
    next layer converts them to its precision.
    """
    exact = autocast_dtype(device) == torch.float32
    return torch.float32 if exact else torch.bfloat16


def encode_prefix(model: Sam3Image, images: Tensor, blocks: int) -> Tensor:
    """What the first blocks of the trunk make of images.

    Args:
        model: whole, without adapters in these blocks.
        images: (B, 3, S, S) uint8, on the model's device.
        blocks: how many, from 0 to all.

    Returns:
        (B, h, w, C) activations in `stored_dtype`.
    """
    with torch.no_grad(), evaluating(model), mixed_precision(images.device):
        found: Tensor = model.backbone.vision_backbone.trunk.prefix(normalized(images), blocks)
    return found.to(stored_dtype(images.device))


def start_after(model: Sam3Image, blocks: int) -> None:
    """Let a model take activations from `encode_prefix` in place of images, in place.

    The first blocks are out of memory then.
    """
    trunk = model.backbone.vision_backbone.trunk
    trunk.first_block = blocks
    trunk.patch_embed = nn.Identity()
    for number in range(blocks):
        trunk.blocks[number] = nn.Identity()
