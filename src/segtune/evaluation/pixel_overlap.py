"""Pixel overlap: Dice, IoU and boundary IoU of all objects of a class together.

For classes without clear instances, such as cracks or vessels. The masks of a class in an image
are united, those of detections above its confidence threshold; pixels are summed over the
images before dividing, so a large object counts for more than a small one. Boundary IoU (Cheng
et al. 2021, "Boundary IoU", with their width of 2% of the image's diagonal) only looks at the
rims, where thin objects and sloppy outlines show.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools import mask as mask_utils

from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.detections import Detections
from segtune.dataset.masks import Rle, segmentation_to_rle
from segtune.evaluation.arrays import Array

NAMES = ("dice", "iou", "boundary_iou")
RIM = 0.02  # of the image's diagonal


def pixel_counts(split: Split, detections: Detections, thresholds: Mapping[int, float]) -> Array:
    """(images, classes, 5) pixels, per image, so that images can be resampled.

    They are those of the intersection, of the detections, of the ground truth, of the
    intersection of their rims and of the union of their rims. A class is left out of an image
    in which one of its objects has no mask.

    Args:
        split: the ground truth.
        detections: of the model.
        thresholds: class id -> confidence threshold of its detections.
    """
    counts = np.zeros((len(split.images), len(split.categories), 5), np.int64)
    for row, image in zip(counts, split.images, strict=True):
        for place, category in enumerate(split.categories):
            objects = split.ground_truth(image.id, category.id)
            if all(a.segmentation for a in objects):
                found = detections.of(image.id, category.id)
                predicted = [d.rle for d in found if d.score >= thresholds[category.id]]
                row[place] = _compare(predicted, _masks(objects, image), image)
    return counts


def overlap_values(counts: Array) -> dict[str, Array]:
    """Dice, IoU and boundary IoU of summed counts, NaN for a class without objects.

    Args:
        counts: (..., 5), sums over the images of `pixel_counts`.

    Returns:
        Name -> (...,) values.
    """
    both, found, truth, rim_both, rim_any = np.moveaxis(counts.astype(float), -1, 0)
    with np.errstate(invalid="ignore"):
        values = (2 * both / (found + truth), both / (found + truth - both), rim_both / rim_any)
    known = (np.where(truth > 0, value, np.nan) for value in values)
    return dict(zip(NAMES, known, strict=True))


def _masks(objects: Sequence[Annotation], image: Image) -> list[Rle]:
    return [
        segmentation_to_rle(a.segmentation, image.height, image.width)
        for a in objects
        if a.segmentation
    ]


def _compare(found: list[Rle], truth: list[Rle], image: Image) -> tuple[int, ...]:
    if not found and not truth:
        return (0,) * 5
    united = [mask_utils.merge(rles) if rles else None for rles in (found, truth)]
    areas = [int(mask_utils.area(rle)) if rle else 0 for rle in united]
    known = [rle for rle in united if rle]
    both = int(mask_utils.area(mask_utils.merge(known, intersect=True))) if all(united) else 0
    rims = [_rim(rle, known, image) for rle in united if rle]
    rim_both = int((rims[0] & rims[1]).sum()) if len(rims) == 2 else 0
    rim_any = int(np.logical_or.reduce(rims).sum())
    return both, areas[0], areas[1], rim_both, rim_any


def _rim(rle: Rle, frame: list[Rle], image: Image) -> Array:
    """The pixels of a mask next to its border, cut to the box around `frame`."""
    x, y, w, h = (int(value) for value in mask_utils.toBbox(mask_utils.merge(frame)))
    mask = mask_utils.decode(rle)[y : y + h, x : x + w].astype(bool)
    width = max(1, round(RIM * math.hypot(image.height, image.width)))
    return mask & ~eroded(mask, width)


def eroded(mask: Array, width: int) -> Array:
    """A mask without the pixels that are at most `width` rows and columns from its outside.

    The border of the array counts as outside. The same as `width` erosions by 3 x 3 pixels.
    """
    return _eroded_rows(_eroded_rows(mask, width).T, width).T


def _eroded_rows(mask: Array, width: int) -> Array:
    # Doubling the window takes only a few passes, whatever the width.
    window, length = 2 * width + 1, 1
    cut = np.zeros((mask.shape[0], mask.shape[1] + 2 * width), bool)
    cut[:, width:-width] = mask
    while 2 * length <= window:
        cut = cut[:, length:] & cut[:, :-length]
        length *= 2
    rest = window - length
    return cut[:, rest:] & cut[:, : cut.shape[1] - rest]
