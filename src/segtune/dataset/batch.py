"""The input of the model: images as tensors, and batches of prompted images.

A row of a batch is one prompt on one image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.transforms.v2 import functional as transforms

from segtune.dataset.images import upright_rgb

Size = tuple[int, int]  # (height, width) in pixels

STRIP_ROWS = 64


@dataclass(frozen=True)
class Sample:
    """An image with its prompts and, per prompt, the objects to detect."""

    name: str
    image: Tensor  # (3, S, S) uint8, or its activations (h, w, C) in front of a block
    prompts: tuple[str, ...]
    boxes_cxcywh: tuple[Tensor, ...]  # per prompt (n, 4), in 0..1
    masks: tuple[Tensor, ...]  # per prompt (n, S, S) bool
    has_mask: tuple[Tensor, ...]  # per prompt (n,) bool


@dataclass(frozen=True)
class Batch:
    """P prompts on B images with N objects, at most H per prompt; S is the input size."""

    names: tuple[str, ...]  # B, file names for error messages
    captions: tuple[str, ...]  # C distinct texts
    images: Tensor  # (B, 3, S, S) uint8, or activations (B, h, w, C)
    image_ids: Tensor  # (P,) positions in `images`
    text_ids: Tensor  # (P,) positions in `captions`
    num_boxes: Tensor  # (P,) objects
    boxes_cxcywh: Tensor  # (N, 4) in 0..1, prompt by prompt
    boxes_padded: Tensor  # (P, H, 4), padded with zeros
    object_ids_padded: Tensor  # (P, H), padded with -1
    masks: Tensor | None  # (N, S, S) bool; None where the split has no masks
    has_mask: Tensor  # (N,) bool; False for box-only objects

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`, soon: from pinned memory, nothing waits."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in memory that a GPU reads by itself. A DataLoader calls this."""
        return self._changed(lambda tensor: tensor.pin_memory())

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors: dict[str, Any] = {
            field.name: change(value)
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
    """Read an image upright and resized to a square, as SAM 3 sees it once it is `normalized`.

    Args:
        path: of the file.
        image_size: side of the square, in pixels.

    Returns:
        (3, image_size, image_size) uint8, and the (height, width) of the upright image.

    Raises:
        DatasetError: when the image cannot be read.
    """
    # The EXIF orientation matters for folders of photographs; converted images are upright.
    image = upright_rgb(path)
    return resized_pixels(image, image_size), (image.height, image.width)


def resized_pixels(image: PilImage.Image, image_size: int) -> Tensor:
    """An image in RGB as (3, image_size, image_size) uint8."""
    return transforms.resize(_pixels(image), [image_size, image_size], antialias=True)


def normalized(images: Tensor) -> Tensor:
    """Images of 0..255, of any shape, as the model reads them: float32 in -1..1.

    On the model's device: as bytes, an image is a quarter of its size on the way there.
    """
    return (images.float() / 255 - 0.5) / 0.5


def _pixels(image: PilImage.Image) -> Tensor:
    """(3, height, width) uint8, of an image in RGB."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    # In strips that fit a processor's cache: as a whole, it takes twice as long.
    for top in range(0, height, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return torch.from_numpy(pixels).permute(2, 0, 1)
