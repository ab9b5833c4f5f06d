"""Masks at the scale of the model's input, drawn within their boxes only.

They are bitwise identical to what torch's antialiased bilinear resize makes of a whole mask, at a
probability of 1/2. A photograph has millions of pixels, and most objects have few of them.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.dataset.masks import Segmentation, rle_crop, segmentation_to_rle


def scaled_masks(
    segmentations: Sequence[Segmentation | None], *, height: int, width: int, side: int
) -> Tensor:
    """Objects of one image as masks at another scale.

    Args:
        segmentations: n polygons or RLEs; None for a box-only object.
        height: of the image, in pixels.
        width: of the image, in pixels.
        side: S, of the masks, in pixels.

    Returns:
        (n, S, S) bool; all False for a box-only object.
    """
    masks = torch.zeros(len(segmentations), side, side, dtype=torch.bool)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        if segmentation:
            _draw(segmentation, mask, height=height, width=width)
    return masks


def _draw(segmentation: Segmentation, mask: Tensor, *, height: int, width: int) -> None:
    """Draw an object of a larger or smaller image onto an empty mask (S, S)."""
    left, top, columns = rle_crop(segmentation_to_rle(segmentation, height, width))
    if not columns.size:
        return
    places, resized = _resized_columns(torch.from_numpy(columns).float(), left, width, len(mask))
    # Of full height: torch has no resize that begins in the middle of an image.
    tall = torch.zeros(height, len(resized))
    tall[top : top + columns.shape[1]] = resized.T
    mask[:, places] = _resize(tall[None, None], len(mask), len(resized))[0, 0] >= 0.5


def _resized_columns(columns: Tensor, left: int, width: int, side: int) -> tuple[slice, Tensor]:
    """A resize in one direction, of the w columns of a crop instead of the image's `width`.

    Returns:
        The columns of the result, of `side`, that the crop reaches, and their c values (c, h).
    """
    sources, weights = _weights(width, side)
    inside = (sources >= left) & (sources < left + len(columns))
    (reached,) = torch.nonzero((inside & (weights > 0)).any(1), as_tuple=True)
    # With a neighbor on either side: torch adds up a single column in another order.
    places = slice(max(0, int(reached[0]) - 1), int(reached[-1]) + 2)
    # A last column of zeros stands for all that are not in the crop.
    table = torch.cat([columns, columns.new_zeros(1, columns.shape[1])])
    bags = torch.where(inside, sources - left, len(columns))[places]
    # Summed in the order of torch's resize; products with 0 and 1 are exact.
    return places, F.embedding_bag(
        bags, table, mode="sum", per_sample_weights=weights[places].contiguous()
    )


@lru_cache(maxsize=8)
def _weights(length: int, side: int) -> tuple[Tensor, Tensor]:
    """Where each of S output pixels gets its value from when `length` pixels become S.

    Returns:
        (S, k) input pixels, some of them outside of the image, and (S, k) their weights.
    """
    support = max(length / side, 1.0)
    step = int(2 * support) + 4
    # Ones so far apart that an output pixel sees one at most: its value is that one's weight.
    combs = torch.zeros(1, step, 1, length)
    for start in range(step):
        combs[0, start, 0, start::step] = 1
    seen = _resize(combs, 1, side)[0, :, 0]  # (step, S)
    centers = length / side * (np.arange(side) + 0.5)
    first = np.floor(centers - support).astype(np.int64) - 1
    sources = torch.from_numpy(first[:, None] + np.arange(step))
    return sources, seen.T.gather(1, sources % step)


def _resize(planes: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
