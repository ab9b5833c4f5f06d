"""From a converted split to batches of prompted pictures.

One row of a batch is one prompt on one picture. What an epoch shows depends on (seed,
epoch, item) alone: not on the number of workers or processes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PilImage
from PIL import ImageOps
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transforms

from segtune.augment import Augmentation, Sample
from segtune.coco import Annotation, Image, Split, has_masks, segmentation_to_mask
from segtune.errors import DatasetError
from segtune.sampling import Item

Size = tuple[int, int]  # (height, width) in pixels


@dataclass(frozen=True)
class Batch:
    """P prompts on B pictures with N objects, at most H per prompt; S is the input size."""

    names: tuple[str, ...]  # B, file names for messages
    captions: tuple[str, ...]  # C, each text once
    images: Tensor  # (B, 3, S, S) float, normalised
    image_ids: Tensor  # (P,) position in `images`
    text_ids: Tensor  # (P,) position in `captions`
    num_boxes: Tensor  # (P,)
    boxes_cxcywh: Tensor  # (N, 4) in 0..1, prompt after prompt
    boxes_padded: Tensor  # (P, H, 4), zeros behind each prompt's own
    object_ids_padded: Tensor  # (P, H), -1 behind each prompt's own
    masks: Tensor | None  # (N, S, S) bool; None where the split has no mask at all
    has_mask: Tensor  # (N,) bool; False for box-only objects

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        tensors: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)


class PromptedImages(Dataset[Sample]):
    """A training split; an item is asked for by (epoch, index, earlier occurrences).

    Args:
        split: the converted split.
        image_size: side of the model's square input, in pixels.
        max_negatives: absent prompts per picture at most. Over ceil(absent / max_negatives)
            epochs a picture is asked for everything that it does not show.
        extra_negatives: prompts of things that no picture of the split shows.
        augmentation: how pictures are varied, anew each time.
        seed: of the choice of negatives and of the variation.
    """

    def __init__(
        self,
        split: Split,
        image_size: int,
        max_negatives: int,
        extra_negatives: Sequence[str],
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self.split, self.image_size, self.seed = split, image_size, seed
        self.max_negatives = max_negatives
        known = {
            prompt.strip().casefold()
            for image in split.images
            for prompt in split.prompts(image).values()
        }
        self.extra_negatives = tuple(
            prompt for prompt in extra_negatives if prompt.strip().casefold() not in known
        )
        self.augmentation = augmentation
        self.classes = [category.id for category in split.categories]
        self.images = [image for image in split.images if self._offers_a_prompt(image)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int, int]) -> Sample:
        epoch, index, occurrence = item
        rng = np.random.default_rng([self.seed, epoch, index, occurrence])
        side = self.augmentation.drawn_side(self.image_size, rng)
        negatives = self._negatives(index, epoch + occurrence)
        sample = self.sample(self.images[index], negatives, side)
        return self.augmentation.varied(sample, self.image_size, rng)

    def sample(self, image: Image, negatives: Sequence[int | str], side: int) -> Sample:
        """A picture of `side` pixels, prompted with what it shows and with `negatives`."""
        objects = self._objects(image)
        prompts = [*sorted({a.category_id for a in objects}), *negatives]
        found = [[a for a in objects if a.category_id == prompt] for prompt in prompts]
        prompt_of = self.split.prompts(image)
        masks = [_masks(anns, image, side) for anns in found]
        return Sample(
            name=image.file_name,
            image=load_image(self.split.image_path(image), side)[0],
            prompts=tuple(prompt_of[p] if isinstance(p, int) else p for p in prompts),
            boxes_cxcywh=tuple(_boxes_cxcywh(anns, image) for anns in found),
            masks=tuple(masks),
            has_mask=tuple(mask.flatten(1).any(1) for mask in masks),
        )

    def shown(self, image: Image) -> frozenset[int]:
        """The classes on a picture, those that it shows as a crowd alone among them."""
        return frozenset(a.category_id for a in self.split.annotations[image.id])

    def _objects(self, image: Image) -> list[Annotation]:
        # A crowd region is no single object, so it cannot be a target.
        return [a for a in self.split.annotations[image.id] if not a.iscrowd]

    def absent(self, image: Image) -> list[int | str]:
        """The prompts of which a picture shows nothing: category ids and extra negatives."""
        # A class that is there as a crowd alone is no target, and not absent either.
        shown = self.shown(image)
        return [*(i for i in self.classes if i not in shown), *self.extra_negatives]

    def _offers_a_prompt(self, image: Image) -> bool:
        return bool(self._objects(image)) or (self.max_negatives > 0 and bool(self.absent(image)))

    def _negatives(self, index: int, turn: int) -> list[int | str]:
        """The next few of a picture's absent prompts, in a seeded order of its own."""
        absent = self.absent(self.images[index])
        count = min(self.max_negatives, len(absent))
        order = np.random.default_rng([self.seed, index]).permutation(len(absent))
        return [absent[i] for i in sorted(np.roll(order, -turn * count)[:count])]


def collate(samples: Sequence[Sample], with_masks: bool) -> Batch:
    """Put samples into one batch; `with_masks` is False where a split has none."""
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


def training_batches(
    dataset: PromptedImages,
    steps: Sequence[Sequence[Item]],
    epoch: int,
    micro_batch_size: int,
    workers: int,
) -> Iterator[list[Batch]]:
    """The batches of each optimiser step: micro-batches of at most `micro_batch_size`."""
    with_masks = has_masks(dataset.split)

    def collate_step(samples: list[Sample]) -> list[Batch]:
        chunks = (
            samples[start : start + micro_batch_size]
            for start in range(0, len(samples), micro_batch_size)
        )
        return [collate(chunk, with_masks) for chunk in chunks]

    loader: DataLoader[list[Batch]] = DataLoader(
        dataset,  # type: ignore[arg-type]  # asked for by (epoch, index, occurrence)
        batch_sampler=[[(epoch, *item) for item in step] for step in steps],
        collate_fn=collate_step,
        num_workers=workers,
        # Each loader draws a seed; from the global generator, a resumed run would differ.
        generator=torch.Generator(),
    )
    yield from loader


def load_image(path: Path, image_size: int) -> tuple[Tensor, Size]:
    """Read a picture as SAM 3 sees it: upright, squashed to a square, normalised to -1..1.

    Returns:
        (3, image_size, image_size) float32, and the picture's own (height, width).
    """
    try:
        with PilImage.open(path) as picture:
            # Converted pictures are upright; a folder of photographs may hold turned ones.
            upright = ImageOps.exif_transpose(picture)
            pixels = transforms.pil_to_tensor(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError) as error:
        raise DatasetError(f"not a readable picture ({error})", file=path) from None
    resized = transforms.resize(pixels, [image_size, image_size], antialias=True)
    height, width = pixels.shape[-2:]
    return (resized.float() / 255 - 0.5) / 0.5, (height, width)


def _boxes_cxcywh(annotations: Sequence[Annotation], image: Image) -> Tensor:
    boxes = torch.tensor([a.bbox_xywh for a in annotations]).reshape(-1, 4)
    boxes[:, :2] += boxes[:, 2:] / 2
    return boxes / torch.tensor([image.width, image.height] * 2)


def _masks(annotations: Sequence[Annotation], image: Image, image_size: int) -> Tensor:
    """(n, S, S) bool; all False for a box-only object."""
    if not annotations:
        return torch.zeros(0, image_size, image_size, dtype=torch.bool)
    blank = np.zeros((image.height, image.width), np.uint8)
    drawn = [
        segmentation_to_mask(a.segmentation, image.height, image.width) if a.segmentation else blank
        for a in annotations
    ]
    masks = torch.from_numpy(np.stack(drawn)).float()[None]  # (1, n, height, width)
    size = (image_size, image_size)
    return F.interpolate(masks, size, mode="bilinear", antialias=True)[0] >= 0.5
