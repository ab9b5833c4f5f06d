"""How much of each class is covered: Dice, IoU and boundary IoU of all its objects together.

For things without clear instances, such as cracks or vessels. A class's masks on an image are
united, detections from its score threshold on; pixels are summed over the images before
anything is divided, so a large object counts for more than a small one. Boundary IoU (Cheng
et al. 2021, "Boundary IoU", with their width of 2 % of the image's diagonal) looks at the
rims alone, where thin things and sloppy outlines show.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_utils

from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.detections import Detections
from segtune.dataset.masks import Rle, segmentation_to_rle

Array = npt.NDArray[Any]
NAMES = ("dice", "iou", "boundary_iou")
RIM = 0.02  # of the image's diagonal
_BOTH, _FOUND, _TRUTH, _RIM_BOTH, _RIM_ANY = range(5)


def pixel_counts(split: Split, detections: Detections, thresholds: Mapping[int, float]) -> Array:
    """(images, classes, 5) pixels, per image, so that images can be resampled.

    A class is left out of an image in which one of its objects has no mask.

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
                row[place] = _compared(predicted, _masks(objects, image), image)
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


def _compared(found: list[Rle], truth: list[Rle], image: Image) -> tuple[int, ...]:
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

    The border of the array counts as outside. As many erosions by 3 x 3 pixels give the same.
    """
    return _eroded_rows(_eroded_rows(mask, width).T, width).T


def _eroded_rows(mask: Array, width: int) -> Array:
    # Windows are doubled until they are as long as asked: few passes, whatever the width.
    window, length = 2 * width + 1, 1
    cut = np.zeros((mask.shape[0], mask.shape[1] + 2 * width), bool)
    cut[:, width:-width] = mask
    while 2 * length <= window:
        cut = cut[:, length:] & cut[:, :-length]
        length *= 2
    rest = window - length
    return cut[:, rest:] & cut[:, : cut.shape[1] - rest]
