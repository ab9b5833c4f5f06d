"""Masks as polygons, which every labeling tool can read and edit."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import shapely
from pycocotools import mask as mask_utils
from shapely.geometry import MultiPolygon, Polygon

from segtune.dataset.masks import Rle, run_lengths, segmentation_to_rle

TOLERANCE = 0.75  # pixels; the corners of a diagonal staircase are 0.71 from their chord
MIN_IOU = 0.95  # of the polygons with the mask; where they have less, every corner is kept


def mask_polygons(rle: Rle) -> list[list[float]]:
    """A mask as simple polygons without holes, within 0.75 pixels of its outline.

    Each connected region is a polygon. One with a hole is cut through it vertically, because
    COCO's polygons have no holes.

    Args:
        rle: compressed.

    Returns:
        Polygons x0, y0, x1, y1, … in pixels; none for an empty mask.
    """
    regions = _regions(rle)
    for tolerance in (TOLERANCE, 0.0):
        polygons = [
            shapely.get_coordinates(piece.exterior)[:-1].round(2).ravel().tolist()
            for region in regions
            for piece in _without_holes(region.simplify(tolerance))
        ]
        if not polygons or _agree(polygons, rle):
            break
    return polygons


def _regions(rle: Rle) -> list[Polygon]:
    """Connected regions; pixels that only touch at a corner are not connected."""
    height, width = rle["size"]
    ends = np.cumsum(run_lengths(rle, height, width))
    boxes = _column_runs(ends[0::2], ends[1::2], height)
    united = shapely.union_all(boxes)
    if united.is_empty:
        return []
    return list(united.geoms) if isinstance(united, MultiPolygon) else [united]


def _column_runs(
    starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], height: int
) -> npt.NDArray[np.object_]:
    """A box for the pixels that each run has in a column.

    Args:
        starts: (n,) first pixel of each run, column by column.
        ends: (n,) the pixel after each run.
        height: of the image, in pixels.
    """
    starts = starts[: len(ends)]
    first, last = starts // height, (ends - 1) // height
    columns = last - first + 1  # of each run
    run = np.repeat(np.arange(len(ends)), columns)
    x = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(columns) - columns, columns)
    top = np.where(x == first[run], starts[run] - x * height, 0)
    bottom = np.where(x == last[run], ends[run] - x * height, height)
    boxes: npt.NDArray[np.object_] = shapely.box(x, top, x + 1, bottom)
    return boxes


def _without_holes(region: Polygon) -> Iterator[Polygon]:
    if not region.interiors:
        yield region
        return
    left, top, right, bottom = region.bounds
    hole = region.interiors[0].bounds
    cut = (hole[0] + hole[2]) / 2
    if hole[2] - hole[0] > 1:
        cut = round(cut)  # between two pixels, so that the sides are drawn without a gap
    for part in (shapely.box(left, top, cut, bottom), shapely.box(cut, top, right, bottom)):
        pieces = shapely.get_parts(region.intersection(part))
        for piece in pieces[shapely.area(pieces) > 0]:
            yield from _without_holes(piece)


def _agree(polygons: list[list[float]], rle: Rle) -> bool:
    drawn = segmentation_to_rle(polygons, *rle["size"])
    return bool(mask_utils.iou([drawn], [rle], [0])[0, 0] >= MIN_IOU)
