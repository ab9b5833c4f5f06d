"""Masks cut by windows of an image, and put back in their places.

Only run lengths are computed with. An image of many megapixels has thousands of pieces of masks,
each of which has few of its pixels.
"""

import numpy as np
import numpy.typing as npt

from segtune.dataset.masks import Rle, run_lengths, segmentation_to_rle
from segtune.dataset.tiles import Window

Array = npt.NDArray[np.int64]
# Of the runs of an object, each in one column: (n,) columns, first rows, and rows after the last.
Spans = tuple[Array, Array, Array]


def cut(rle: Rle, window: Window) -> Rle:
    """The part of a compressed RLE in a window, as one of the window's size."""
    return _to_rle(_within(_spans(rle), window), window.height, window.width)


def placed(rle: Rle, window: Window, *, height: int, width: int) -> Rle:
    """A compressed RLE of a window's size as one of the image's.

    Args:
        rle: of the window.
        window: that it is of.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    columns, first, after = _spans(rle)
    spans = (columns + window.left, first + window.top, after + window.top)
    return _to_rle(spans, height, width)


def without(rle: Rle, window: Window) -> Rle:
    """A compressed RLE without its pixels in a window."""
    height, width = rle["size"]
    columns, first, after = _spans(rle)
    inside = (columns >= window.left) & (columns < window.right)
    above = np.where(inside, np.minimum(after, window.top), after)
    below = np.maximum(first[inside], window.bottom)
    columns = np.r_[columns, columns[inside]]
    first, after = np.r_[first, below], np.r_[above, after[inside]]
    order = np.lexsort((first, columns))
    order = order[after[order] > first[order]]
    return _to_rle((columns[order], first[order], after[order]), height, width)


def area_within(rle: Rle, window: Window) -> int:
    """How many pixels of a compressed RLE are in a window."""
    _, first, after = _within(_spans(rle), window)
    return int((after - first).sum())


def _spans(rle: Rle) -> Spans:
    height, width = rle["size"]
    ends = np.cumsum(run_lengths(rle, height, width))
    after = ends[1::2]
    first = ends[0::2][: len(after)]
    first, after = first[after > first], after[after > first]
    # A run may reach through several columns, and is divided where they begin.
    columns = first // height
    counts = (after - 1) // height - columns + 1
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = np.repeat(columns, counts) + within
    first = np.maximum(np.repeat(first, counts) - columns * height, 0)
    after = np.minimum(np.repeat(after, counts) - columns * height, height)
    return columns, first, after


def _within(spans: Spans, window: Window) -> Spans:
    """The part of spans of an image in a window, in pixels of the window."""
    columns, first, after = spans
    first = np.maximum(first - window.top, 0)
    after = np.minimum(after - window.top, window.height)
    columns = columns - window.left
    inside = (columns >= 0) & (columns < window.width) & (after > first)
    return columns[inside], first[inside], after[inside]


def _to_rle(spans: Spans, height: int, width: int) -> Rle:
    columns, first, after = spans
    starts, ends = columns * height + first, columns * height + after
    # Runs that touch are one, as in what pycocotools encodes.
    apart = starts[1:] != ends[:-1]
    bounds = np.zeros(2 * int(apart.sum()) + 4, np.int64)
    if len(starts):
        bounds[1], bounds[-2] = starts[0], ends[-1]
        bounds[2:-2:2], bounds[3:-2:2] = ends[:-1][apart], starts[1:][apart]
    bounds[-1] = height * width
    counts = (bounds[1:] - bounds[:-1]).tolist() if len(starts) else [height * width]
    if len(counts) > 1 and not counts[-1]:
        counts.pop()
    return segmentation_to_rle({"size": [height, width], "counts": counts}, height, width)
