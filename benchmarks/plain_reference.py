"""How SAM 3 is trained elsewhere, as the reference for speed: the package's modules and flow.

The model is the package's `Sam3Image` with every checkpoint that its builder sets, one of them
inside another in the segmentation head; the loss is its own, with the terms and weights of the
official fine-tuning configuration; and a step is that of its trainer: model and loss in the
device's precision, clipping, AdamW. The masks of all prompts are decoded, the losses of all matched
masks are computed at once, every image is encoded in every step, and frozen weights are float32.

LoRA, which the package lacks, is computed as PEFT does it; where it goes and the random weights are
segtune's.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.stock_loss import Sam3LossWrapper, loss_fns
from segtune.dataset.batch import Batch
from segtune.lora import layers
from segtune.lora.adapted_linear import Update
from segtune.lora.inject import lora_parameters
from segtune.model import architecture
from segtune.model.architecture import Architecture
from segtune.model.forward import grounding_outputs, loss_targets
from segtune.model.precision import mixed_precision
from segtune.model.sam3_package import (
    BinaryOneToManyMatcher,
    Sam3DualViTDetNeck,
    Sam3Image,
    SAM3VLBackbone,
    SimpleTokenizer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
    UniversalSegmentationHead,
    ViT,
)

STOCK: Mapping[str, Any] = {
    "SelectiveMaskSam3": Sam3Image,
    "SAM3VLBackbone": partial(SAM3VLBackbone, scalp=1),  # the neck's fourth feature map
    "Trunk": ViT,
    "Neck": Sam3DualViTDetNeck,
    "Tokenizer": SimpleTokenizer,
    "EncoderLayer": TransformerEncoderLayer,
    "Decoder": TransformerDecoder,
    "DecoderLayer": TransformerDecoderLayer,
    "SegmentationHead": UniversalSegmentationHead,
}


def plain_model(arch: str | Architecture) -> Sam3Image:
    """The package's model with its own checkpoints, and segtune's random weights."""
    with patch.multiple(architecture, **STOCK):
        model = architecture.build_model(arch)
    model.segmentation_head.act_ckpt = True  # within the checkpoint around the whole head
    return model


def plain_loss(matcher: nn.Module) -> nn.Module:
    """The loss of the official fine-tuning configuration, averaged over one process."""
    terms = [
        loss_fns.Boxes(weight_dict={"loss_bbox": 5.0, "loss_giou": 2.0}),
        loss_fns.IABCEMdetr(
            weak_loss=False,
            weight_dict={"loss_ce": 20.0, "presence_loss": 20.0},
            pos_weight=10.0,
            alpha=0.25,
            gamma=2,
            use_presence=True,
            pos_focal=False,
            pad_n_queries=200,
            pad_scale_pos=1.0,
        ),
        loss_fns.Masks(
            weight_dict={"loss_mask": 200.0, "loss_dice": 10.0}, focal_alpha=0.25, focal_gamma=2.0
        ),
    ]
    return Sam3LossWrapper(
        loss_fns_find=terms,
        normalization="local",
        matcher=matcher,
        o2m_matcher=BinaryOneToManyMatcher(alpha=0.3, threshold=0.4, topk=4),
        o2m_weight=2.0,
        use_o2m_matcher_on_o2m_aux=False,
    )


def plain_gradients(
    model: Sam3Image, loss: nn.Module, batch: Batch, device: torch.device
) -> Tensor:
    """The loss of a batch; its gradients are added to those of the parameters."""
    moved = batch.to(device)
    with patch.object(layers, "adapted_linear", _linear_and_update):
        with mixed_precision(device):
            outputs = grounding_outputs(model, moved)
            computed = cast(Any, loss).compute_loss(outputs, loss_targets(model, moved))
        total = cast(Tensor, computed[loss_fns.CORE_LOSS_KEY])
        total.backward()
    return total.detach()


def _linear_and_update(
    x: Tensor,
    dropped: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    updates: Sequence[Update],
    scale: float,
) -> Tensor:
    """As PEFT composes it; several updates as one whose B has blocks."""
    if len(updates) == 1 and len(updates[0].up) == len(weight):
        down, up = updates[0].down, updates[0].up
    else:
        down, rank = torch.cat([one.down for one in updates]), len(updates[0].down)
        up = down.new_zeros(len(weight), len(down))
        for number, one in enumerate(updates):
            up[one.rows, number * rank : (number + 1) * rank] = one.up
    return F.linear(x, weight, bias) + F.linear(F.linear(dropped, down), up) * scale


def plain_step(
    model: Sam3Image,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    device: torch.device,
    clip_norm: float,
) -> Tensor:
    """Take one optimizer step on a batch; its loss before the step."""
    optimizer.zero_grad(set_to_none=True)
    total = plain_gradients(model, loss, batch, device)
    nn.utils.clip_grad_norm_(lora_parameters(model).values(), clip_norm)
    optimizer.step()
    return total
