"""The input of the model: images as tensors, and batches of prompted images.

A row of a batch is one prompt on one image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms.v2 import functional as transforms

from segtune.dataset.images import upright_rgb

Size = tuple[int, int]  # (height, width) in pixels


@dataclass(frozen=True)
class Sample:
    """An image with its prompts and, per prompt, the objects to detect."""

    name: str
    image: Tensor  # (3, S, S), normalized to -1..1
    prompts: tuple[str, ...]
    boxes_cxcywh: tuple[Tensor, ...]  # per prompt (n, 4), in 0..1
    masks: tuple[Tensor, ...]  # per prompt (n, S, S) bool
    has_mask: tuple[Tensor, ...]  # per prompt (n,) bool


@dataclass(frozen=True)
class Batch:
    """P prompts on B images with N objects, at most H per prompt; S is the input size."""

    names: tuple[str, ...]  # B, file names for error messages
    captions: tuple[str, ...]  # C distinct texts
    images: Tensor  # (B, 3, S, S) float, normalized
    image_ids: Tensor  # (P,) positions in `images`
    text_ids: Tensor  # (P,) positions in `captions`
    num_boxes: Tensor  # (P,) objects
    boxes_cxcywh: Tensor  # (N, 4) in 0..1, prompt by prompt
    boxes_padded: Tensor  # (P, H, 4), padded with zeros
    object_ids_padded: Tensor  # (P, H), padded with -1
    masks: Tensor | None  # (N, S, S) bool; None where the split has no masks
    has_mask: Tensor  # (N,) bool; False for box-only objects

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        tensors: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)


def collate(samples: Sequence[Sample], with_masks: bool) -> Batch:
    """Put samples into one batch; `with_masks` is False where the split has no masks."""
    captions = tuple(dict.fromkeys(prompt for sample in samples for prompt in sample.prompts))
    boxes = [b for sample in samples for b in sample.boxes_cxcywh]  # P x (n, 4)
    object_ids = list(torch.arange(sum(len(b) for b in boxes)).split([len(b) for b in boxes]))
    return Batch(
        names=tuple(sample.name for sample in samples),
        captions=captions,
        images=torch.stack([sample.image for sample in samples]),
        image_ids=torch.tensor([i for i, s in enumerate(samples) for _ in s.prompts]),
        text_ids=torch.tensor([captions.index(p) for s in samples for p in s.prompts]),
        num_boxes=torch.tensor([len(b) for b in boxes]),
        boxes_cxcywh=torch.cat(boxes),
        boxes_padded=pad_sequence(boxes, batch_first=True),
        object_ids_padded=pad_sequence(object_ids, batch_first=True, padding_value=-1),
        masks=torch.cat([m for s in samples for m in s.masks]) if with_masks else None,
        has_mask=torch.cat([h for s in samples for h in s.has_mask]),
    )


def load_image(path: Path, image_size: int) -> tuple[Tensor, Size]:
    """Read an image as SAM 3 sees it: upright, resized to a square, normalized to -1..1.

    Args:
        path: of the file.
        image_size: side of the square, in pixels.

    Returns:
        (3, image_size, image_size) float32, and the (height, width) of the upright image.

    Raises:
        DatasetError: when the image cannot be read.
    """
    # The EXIF orientation matters for folders of photographs; converted images are upright.
    pixels = transforms.pil_to_tensor(upright_rgb(path))
    resized = transforms.resize(pixels, [image_size, image_size], antialias=True)
    height, width = pixels.shape[-2:]
    return (resized.float() / 255 - 0.5) / 0.5, (height, width)
