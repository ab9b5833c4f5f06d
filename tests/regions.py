"""Regions of any form in an image, and detections of them."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segtune.dataset.detections import Detection
from segtune.dataset.masks import Rle, rle_bbox_xywh

Mask = npt.NDArray[np.uint8]


def detection(rle: Rle, category: int = 1, score: float = 0.9) -> Detection:
    """A region, detected in image 1."""
    return Detection(1, category, score, rle_bbox_xywh(rle), rle)


def regions(rng: np.random.Generator, height: int, width: int) -> list[Mask]:
    """Connected regions of any form and size that do not overlap; many of them touch."""
    coarse = rng.random((rng.integers(2, 24), rng.integers(2, 24)))
    zoom = (height / coarse.shape[0], width / coarse.shape[1])
    levels = (ndimage.zoom(coarse, zoom, order=int(rng.integers(2))) * 4).astype(int)
    levels = np.pad(levels, ((0, height), (0, width)), mode="edge")[:height, :width]
    found = []
    for level in range(5):
        # Diagonal neighbors are connected, too.
        labels, count = ndimage.label(levels == level, np.ones((3, 3)))
        found += [(labels == n + 1).astype(np.uint8) for n in range(count)]
    return [found[n] for n in rng.permutation(len(found))[:60]]
