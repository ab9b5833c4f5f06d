"""Masks as COCO represents them: polygons, RLE and arrays, rasterized by pycocotools."""

from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_utils

BoxXywh = tuple[float, float, float, float]
Rle = dict[str, Any]  # size: [height, width] in pixels; counts
Segmentation = list[Any] | Rle  # polygons, each x0, y0, x1, y1, …; or an RLE


def segmentation_to_rle(segmentation: Segmentation, height: int, width: int) -> Rle:
    """Polygons or an RLE, compressed or not, as a compressed RLE with its counts as text."""
    if isinstance(segmentation, list):
        rle = mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
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
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": _text(rle["counts"])}


def rle_area(rle: Rle) -> float:
    """The number of pixels of a compressed RLE."""
    return float(mask_utils.area(rle))


def rle_bbox_xywh(rle: Rle) -> BoxXywh:
    """The tight box around a compressed RLE, in pixels."""
    x, y, w, h = (float(value) for value in mask_utils.toBbox(rle))
    return x, y, w, h


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def decode_rle_counts(counts: str) -> list[int] | None:
    """The run lengths of a compressed RLE, or None where it is damaged.

    COCO's text form: each character is six bits, counted from "0" on. Five bits are data, the
    sixth is set where more follow. From the fourth run on, a number is the difference from
    the run two before. pycocotools does not check this and may access memory out of bounds.
    """
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value = shift = 0
        more = True
        while more:
            if position == len(counts):
                return None
            bits = ord(counts[position]) - 48
            if not 0 <= bits < 64:
                return None
            value |= (bits & 31) << shift
            shift += 5
            position += 1
            more = bool(bits & 32)
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def box_to_polygon(box_xywh: BoxXywh) -> list[float]:
    """The four corners of a box, as a polygon x0, y0, x1, y1, …."""
    x, y, w, h = box_xywh
    return [x, y, x + w, y, x + w, y + h, x, y + h]
