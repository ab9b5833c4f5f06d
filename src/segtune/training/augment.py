"""Augmentation of a training image with its boxes and masks.

Every function returns a new sample whose boxes and masks have moved with the image. All
randomness comes from the generator that the caller passes.
"""

from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from segtune.dataset.batch import Sample

MAX_BOX_NOISE = 20 / 1008  # of the image's side, as in the official recipe


@dataclass(frozen=True)
class View:
    """How an image is seen: resized to `side` pixels, perhaps mirrored, then padded."""

    side: int
    mirrored: bool = False


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented; by default not at all.

    Args:
        horizontal_flip: mirror half of the images.
        min_scale: images are shrunk to a random fraction of the input, at least this one,
            and padded at the right and at the bottom. SAM 3's recipe has 480 of 1008 pixels.
        scale_views: how many random scales an image has, drawn once; 0: a new one each time.
        color_jitter: brightness, contrast and saturation are multiplied by up to 1 +- this.
        box_noise: standard deviation of the sides of target boxes, as a fraction of the
            box's width or height.
    """

    horizontal_flip: bool = False
    min_scale: float = 1.0
    scale_views: int = 0
    color_jitter: float = 0.0
    box_noise: float = 0.0

    def views(self, name: str, image_size: int, seed: int) -> list[View]:
        """All views of an image, where there are not too many to count.

        Args:
            name: of the image, whose scales depend on it and not on the others.
            image_size: side of the model's input, in pixels.
            seed: of the scales.
        """
        flips = (False, True) if self.horizontal_flip else (False,)
        sides = set(self._sides(name, image_size, seed))
        return [View(side, mirrored) for side in sorted(sides) for mirrored in flips]

    def _sides(self, name: str, image_size: int, seed: int) -> list[int]:
        """One side from each of `scale_views` equal parts of the range."""
        smallest = round(self.min_scale * image_size)
        if smallest == image_size:
            return [image_size]
        places = np.random.default_rng([seed, crc32(name.encode())]).random(self.scale_views)
        fractions = (np.arange(self.scale_views) + places) / self.scale_views
        return [round(smallest + (image_size - smallest) * fraction) for fraction in fractions]

    def drawn_view(
        self, name: str, image_size: int, *, seed: int, rng: np.random.Generator
    ) -> View:
        """A view for one item; the arguments are those of `views`."""
        smallest = round(self.min_scale * image_size)
        if smallest == image_size:
            side = image_size
        elif self.scale_views:
            side = int(rng.choice(self._sides(name, image_size, seed)))
        else:
            side = int(rng.integers(smallest, image_size + 1))
        return View(side, mirrored=self.horizontal_flip and rng.random() < 0.5)

    def augmented(
        self, sample: Sample, image_size: int, *, mirror: bool, rng: np.random.Generator
    ) -> Sample:
        """A sample of any side, augmented and padded to `image_size` pixels."""
        if mirror:
            sample = mirrored(sample)
        if self.color_jitter:
            sample = recolored(sample, 1 + self.color_jitter * rng.uniform(-1, 1, 3))
        if self.box_noise:
            sample = with_noisy_boxes(sample, self.box_noise, rng)
        return padded(sample, image_size)


def framed(image: Tensor, view: View, image_size: int) -> Tensor:
    """An image (3, side, side) as in a view: (3, image_size, image_size)."""
    if view.mirrored:
        image = image.flip(-1)
    margin = image_size - view.side
    return F.pad(image, (0, margin, 0, margin))  # 0 is black


def mirrored(sample: Sample) -> Sample:
    """Flipped horizontally."""
    right = torch.tensor([1.0, 0.0, 0.0, 0.0])
    opposite = torch.tensor([-1.0, 1.0, 1.0, 1.0])
    return replace(
        sample,
        image=sample.image.flip(-1),
        boxes_cxcywh=tuple(right + boxes * opposite for boxes in sample.boxes_cxcywh),
        masks=tuple(masks.flip(-1) for masks in sample.masks),
    )


def padded(sample: Sample, side: int) -> Sample:
    """Padded with black to `side` pixels, at the right and at the bottom."""
    old = sample.image.shape[-1]
    if old == side:
        return sample
    margin = (0, side - old, 0, side - old)
    return replace(
        sample,
        image=F.pad(sample.image, margin, value=0),  # black
        boxes_cxcywh=tuple(boxes * (old / side) for boxes in sample.boxes_cxcywh),
        masks=tuple(F.pad(masks, margin) for masks in sample.masks),
    )


def recolored(sample: Sample, factors: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Sample:
    """Brightness, contrast and saturation multiplied by three factors, in this order.

    Rounded once, after all three, to the nearest of 256 levels.
    """
    brightness, contrast, saturation = factors.tolist()
    pixels = sample.image.float() / 255
    pixels = transforms.adjust_brightness(pixels, brightness)
    pixels = transforms.adjust_contrast(pixels, contrast)
    pixels = transforms.adjust_saturation(pixels, saturation)
    return replace(sample, image=(pixels * 255).round().to(torch.uint8))


def with_noisy_boxes(sample: Sample, deviation: float, rng: np.random.Generator) -> Sample:
    """Each side of each box moved at random; boxes stay inside the image and never invert."""
    return replace(
        sample, boxes_cxcywh=tuple(_noisy(boxes, deviation, rng) for boxes in sample.boxes_cxcywh)
    )


def _noisy(boxes_cxcywh: Tensor, deviation: float, rng: np.random.Generator) -> Tensor:
    centers, sizes = boxes_cxcywh.split(2, dim=-1)
    noise = torch.from_numpy(rng.normal(0, deviation, (2, *sizes.shape))).to(sizes)
    # At most a quarter of the box, so that opposite sides never meet.
    moved = torch.minimum((noise * sizes).abs(), sizes / 4).clamp(max=MAX_BOX_NOISE)
    low, high = (
        (centers + sign * sizes / 2 + moved_side).clamp(0, 1)
        for sign, moved_side in zip((-1, 1), noise.sign() * moved, strict=True)
    )
    return torch.cat([(low + high) / 2, high - low], dim=-1)
