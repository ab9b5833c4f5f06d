"""Batches of noise with rectangles, and adapters that have learned something, for measurements."""

import torch
from torch import nn

from segtune.dataset.batch import Batch, Sample, collate
from segtune.lora.inject import lora_parameters

OBJECTS = 6  # of an image in measurements that do not vary them
SHOWN = 3  # prompts of an image that show something, at most


def noise_batch(side: int, *, prompts: int, objects: int = OBJECTS, images: int = 1) -> Batch:
    """Images of side x side pixels, whose objects are spread over their first few prompts."""
    torch.manual_seed(0)
    samples = [sample(f"image {i}", side, prompts, objects) for i in range(images)]
    return collate(samples, with_masks=True)


def sample(name: str, side: int, prompts: int, objects: int) -> Sample:
    """An image of noise whose objects are spread over its first prompts."""
    shown_by = [list(range(objects))[p::SHOWN] if p < SHOWN else [] for p in range(prompts)]
    boxes = torch.cat([torch.rand(objects, 2) * 0.5 + 0.25, torch.rand(objects, 2) * 0.3 + 0.1], 1)
    masks = torch.zeros(objects, side, side, dtype=torch.bool)
    for mask, (cx, cy, w, h) in zip(masks, (boxes * side).long().tolist(), strict=True):
        mask[max(0, cy - h // 2) : cy + h // 2, max(0, cx - w // 2) : cx + w // 2] = True
    return Sample(
        name=name,
        image=torch.randint(256, (3, side, side)).byte(),
        prompts=tuple(f"thing {number}" for number in range(prompts)),
        boxes_cxcywh=tuple(boxes[ids] for ids in shown_by),
        masks=tuple(masks[ids] for ids in shown_by),
        has_mask=tuple(torch.ones(len(ids), dtype=torch.bool) for ids in shown_by),
    )


def random_updates(model: nn.Module) -> None:
    """Small random B matrices: with B = 0, as they start, no A would have a gradient."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            if ".lora_B_" in name:
                parameter.normal_(std=1e-3)
