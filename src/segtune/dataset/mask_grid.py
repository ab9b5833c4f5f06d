"""Masks on a grid: of a large image, some rows and some columns of pixels, evenly spaced.

Of these pixels the same fraction is in an object, and in two at once, as of all pixels: areas and
IoU have some noise but no bias. Averages of pixels would have both where they are rounded, and
thin objects would vanish.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from segtune.dataset.batch import Size
from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.detections import Detection
from segtune.dataset.masks import Rle, Segmentation, mask_to_rle, segmentation_to_mask

MIN_SIDE = 512  # pixels; up to this, a grid has all pixels of an image, whatever the model sees


def grid_size(image: Image, image_size: int) -> Size:
    """(height, width) of an image's grid: as many pixels as the image has or the model sees.

    Args:
        image: the original.
        image_size: side of the model's input, in pixels.
    """
    side = max(image_size, MIN_SIDE)
    return min(image.height, side), min(image.width, side)


def on_grid(split: Split, image_size: int) -> Split:
    """The split as if each of its images had the size of its grid, with all boxes and masks."""
    return replace(
        split,
        images=tuple(_small_image(image, image_size) for image in split.images),
        annotations={
            image.id: tuple(_small_object(a, image, image_size) for a in objects)
            for image, objects in ((i, split.annotations[i.id]) for i in split.images)
        },
    )


def at_full_size(found: Detection, image: Image) -> Detection:
    """A detection with a mask on the image's grid, as one with a mask of the image's size."""
    height, width = found.rle["size"]
    size = (image.height, image.width)
    return replace(found, rle=resampled(found.rle, (height, width), size))


def resampled(segmentation: Segmentation, size: Size, new_size: Size) -> Rle:
    """A segmentation of an image of `size`, of which each pixel of another size is one pixel."""
    mask = segmentation_to_mask(segmentation, *size)
    rows, columns = (chosen_pixels(old, new) for old, new in zip(size, new_size, strict=True))
    return mask_to_rle(mask[np.ix_(rows, columns)])


def chosen_pixels(old: int, new: int) -> npt.NDArray[np.int64]:
    """(new,) positions among `old` pixels: those in which the centers of `new` pixels lie."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _small_image(image: Image, image_size: int) -> Image:
    height, width = grid_size(image, image_size)
    return replace(image, height=height, width=width)


def _small_object(a: Annotation, image: Image, image_size: int) -> Annotation:
    size, new_size = (image.height, image.width), grid_size(image, image_size)
    if size == new_size:
        return a
    down, across = (new / old for old, new in zip(size, new_size, strict=True))
    x, y, w, h = a.bbox_xywh
    return replace(
        a,
        bbox_xywh=(x * across, y * down, w * across, h * down),
        area=a.area * down * across,
        segmentation=a.segmentation and resampled(a.segmentation, size, new_size),
    )
