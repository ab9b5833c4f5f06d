"""Masks as COCO represents them: polygons, RLE and arrays, rasterized by pycocotools.

pycocotools trusts what it gets: with damaged run lengths it reads out of bounds, and it
allocates by the length of an outline. `run_lengths` and `require_drawable` come first wherever
a mask is from a file.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_utils

BoxXywh = tuple[float, float, float, float]
Rle = dict[str, Any]  # size: [height, width] in pixels; counts
Segmentation = list[Any] | Rle  # polygons, each x0, y0, x1, y1, …; or an RLE

MAX_PIXELS = 89_478_485  # of an image; beyond this, Pillow warns of a decompression bomb
MAX_COORDINATE = 1e6  # pixels
MAX_OUTLINE = 2e6  # pixels around all polygons of an object; pycocotools takes 120 bytes for each
MIN_POLYGON_NUMBERS = 6  # three points
MAX_CHARACTERS = 7  # of one run length; more do not fit 32 bits
MERGED_AT_ONCE = 32  # polygons


def segmentation_to_rle(segmentation: Segmentation, height: int, width: int) -> Rle:
    """Polygons or an RLE, compressed or not, as a compressed RLE with its counts as text."""
    if isinstance(segmentation, list):
        rle = _united(mask_utils.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = mask_utils.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return {"size": [height, width], "counts": _text(rle["counts"])}


def segmentation_to_mask(
    segmentation: Segmentation, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Polygons or an RLE as a mask (height, width) of 0 and 1, rasterized by pycocotools."""
    mask: npt.NDArray[np.uint8] = mask_utils.decode(
        segmentation_to_rle(segmentation, height, width)
    )
    return mask


def mask_to_rle(mask: npt.NDArray[Any]) -> Rle:
    """A mask (height, width) of 0 and 1 or booleans as a compressed RLE, its counts as text."""
    (rle,) = masks_to_rles(np.asfortranarray(mask, dtype=np.uint8)[..., None])
    return rle


def masks_to_rles(masks: npt.NDArray[np.uint8]) -> list[Rle]:
    """Masks (height, width, n) of 0 and 1, in Fortran's order, as compressed RLEs."""
    size = [*masks.shape[:2]]
    return [{"size": size.copy(), "counts": _text(r["counts"])} for r in mask_utils.encode(masks)]


def rle_area(rle: Rle) -> float:
    """The number of pixels of a compressed RLE."""
    return float(mask_utils.area(rle))


def rle_bbox_xywh(rle: Rle) -> BoxXywh:
    """The tight box around a compressed RLE, in pixels."""
    x, y, w, h = (float(value) for value in mask_utils.toBbox(rle))
    return x, y, w, h


def rle_crop(rle: Rle) -> tuple[int, int, npt.NDArray[np.float32]]:
    """The pixels within the tight box of a compressed RLE; the others are never decoded.

    Returns:
        The box's left and top, and its w columns (w, h) of 0 and 1: x first, as in an RLE.
    """
    height, width = rle["size"]
    left, top, w, h = (int(value) for value in mask_utils.toBbox(rle))
    column, row = np.divmod(np.cumsum(run_lengths(rle, height, width)), height)
    # How many of the box's pixels come before the end of each run.
    ends = ((column - left) * h + np.clip(row - top, 0, h)).clip(0, w * h)
    runs = np.diff(ends, prepend=0)
    return (
        left,
        top,
        np.repeat(np.arange(len(runs)) % 2 == 1, runs).astype(np.float32).reshape(w, h),
    )


def run_lengths(rle: Any, height: int, width: int) -> npt.NDArray[np.int64]:
    """The run lengths of an RLE from a file, once it is certain that pycocotools can use it.

    Takes time in proportion to the counts.

    Args:
        rle: whatever the file has; compressed or not.
        height: of its image, in pixels.
        width: of its image, in pixels.

    Returns:
        (n,) pixels, column by column, of background and object in turns.

    Raises:
        ValueError: when it is not an RLE of an image of this size, saying why.
    """
    size = rle.get("size") if isinstance(rle, dict) else None
    if not isinstance(size, list) or size != [height, width]:
        text = "without a size" if size is None else f"of size {str(size)[:40]}"
        raise ValueError(f"RLE {text}, but the image's is {[height, width]} (height, width)")
    counts = rle.get("counts")
    runs = _decoded(counts) if isinstance(counts, str) else _plain_runs(counts)
    if runs is None or not len(runs) or runs.min() < 0 or runs.max() > height * width:
        raise ValueError("RLE whose counts are not run lengths")
    if runs.sum() != height * width:
        raise ValueError(f"RLE of {runs.sum()} pixels, but the image has {height * width}")
    return runs


def require_drawable(polygons: Any) -> None:
    """Check that pycocotools can draw polygons from a file, in bounded time and memory.

    Args:
        polygons: whatever the file has; lists or arrays of x0, y0, x1, y1, … in pixels.

    Raises:
        ValueError: when they are not polygons, or their outlines are absurdly long.
    """
    parts = [_finite(part) for part in polygons]
    if any(len(values) < MIN_POLYGON_NUMBERS or len(values) % 2 for values in parts):
        raise ValueError("a polygon has fewer than three points or an odd number of values")
    # No step is longer than the polygon is wide or high: quicker to find, and mostly enough.
    if sum((values.max() - values.min()) * len(values) for values in parts) <= MAX_OUTLINE:
        return
    outline = sum(map(_outline, parts))
    if outline > MAX_OUTLINE:
        raise ValueError(f"polygons with an outline of {outline:.3g} pixels")


def require_usable(segmentation: Segmentation, height: int, width: int) -> None:
    """Check that pycocotools can draw a segmentation from a file in an image of this size.

    Raises:
        ValueError: when it cannot, saying why.
    """
    if isinstance(segmentation, list):
        require_drawable(segmentation)
    else:
        run_lengths(segmentation, height, width)


def box_to_polygon(box_xywh: BoxXywh) -> list[float]:
    """The four corners of a box, as a polygon x0, y0, x1, y1, …."""
    x, y, w, h = box_xywh
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def box_to_rle(box_xywh: BoxXywh, height: int, width: int) -> Rle:
    """What of a box is in an image, as a compressed RLE."""
    x, y, w, h = box_xywh
    # pycocotools allocates by the length of an outline, also of what is outside.
    left, right = (min(max(value, 0), width) for value in (x, x + w))
    top, bottom = (min(max(value, 0), height) for value in (y, y + h))
    corners = box_to_polygon((left, top, right - left, bottom - top))
    return segmentation_to_rle([corners], height, width)


def _united(rles: list[Any]) -> Any:
    # In groups: pycocotools goes through everything united so far for each polygon.
    while len(rles) > MERGED_AT_ONCE:
        groups = range(0, len(rles), MERGED_AT_ONCE)
        rles = [mask_utils.merge(rles[start : start + MERGED_AT_ONCE]) for start in groups]
    return mask_utils.merge(rles)


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def _decoded(counts: str) -> npt.NDArray[np.int64] | None:
    """The numbers of COCO's text form, or None where it is damaged.

    Each character is six bits, counted from "0" on. Five bits are data, the sixth is set where
    more follow; a number's last character has its sign. From the fourth run on, a number is the
    difference from the run two before.
    """
    try:
        bits = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not len(bits) or bits.min() < 0 or bits.max() > 63 or bits[-1] & 32:
        return None
    starts = np.flatnonzero(np.r_[0, bits[:-1] & 32] == 0)
    lengths = np.diff(np.r_[starts, len(bits)])
    if lengths.max() > MAX_CHARACTERS:
        return None
    shifts = 5 * (np.arange(len(bits)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((bits & 31) << shifts, starts)
    negative = bits[starts + lengths - 1] & 16 > 0
    numbers -= np.where(negative, np.left_shift(1, 5 * lengths), 0)
    # The first three are runs themselves; sums along each color undo the differences.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _plain_runs(counts: Any) -> npt.NDArray[np.int64] | None:
    if not isinstance(counts, list) or any(type(run) is not int for run in counts):
        return None
    try:
        return np.array(counts, np.int64)
    except OverflowError:  # an integer beyond 64 bits
        return None


def _outline(values: npt.NDArray[np.float64]) -> float:
    """The length of an outline as pycocotools walks it: the longer axis of each step."""
    points = values.reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())


def _finite(part: Any) -> npt.NDArray[np.float64]:
    if isinstance(part, str | bytes | dict) or not isinstance(part, Sequence):
        raise ValueError("a polygon is not a list of numbers")
    if isinstance(part, list) and any(type(number) not in (int, float) for number in part):
        raise ValueError("a polygon is not a list of numbers")
    try:
        values = np.asarray(part, np.float64)
    except (OverflowError, TypeError):
        raise ValueError("a polygon is not a list of numbers") from None
    # Written so that NaN fails too.
    if not (len(values) and max(values.max(), -values.min()) <= MAX_COORDINATE):
        raise ValueError(f"a polygon has coordinates beyond {MAX_COORDINATE:g}")
    return values
