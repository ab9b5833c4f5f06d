"""Matching detections with ground truth: overlaps, one greedy matcher, and what it leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_utils

from segtune.dataset.coco import Annotation, Image
from segtune.dataset.detections import Detection
from segtune.dataset.masks import Rle, box_to_polygon, segmentation_to_rle

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ClassMatches:
    """One class's detections over all images, best score first.

    `matched` and `counted` hold, per IoU threshold, whether a detection matches an object and
    whether it counts at all (what matches a crowd does not).
    """

    score: Array  # (N,)
    image: Array  # (N,) position of the image
    matched: Array  # (T, N) bool
    counted: Array  # (T, N) bool
    objects: Array  # (images,) objects to detect


def iou_matrix(
    image: Image,
    detections: Sequence[Detection],
    objects: Sequence[Annotation],
    *,
    regions: Sequence[bool],
    with_masks: bool,
) -> npt.NDArray[np.float64]:
    """(detections, objects) IoU in one image, by pycocotools.

    Args:
        image: whose size the masks have.
        detections: in the image.
        objects: the ground truth; an object without a mask is represented by its box.
        regions: per object, whether it is a region that may hold several objects (a crowd):
            its overlap is the fraction of the detection that lies in it.
        with_masks: compare masks, else boxes.
    """
    if not objects or not detections:
        return np.zeros((len(detections), len(objects)))
    shapes: tuple[list[Any], list[Any]]
    if with_masks:
        shapes = [d.rle for d in detections], [_mask(a, image) for a in objects]
    else:
        shapes = [list(d.bbox_xywh) for d in detections], [list(a.bbox_xywh) for a in objects]
    ious: npt.NDArray[np.float64] = mask_utils.iou(*shapes, [int(region) for region in regions])
    return ious


def match_greedily(ious: Array, allowed: Array, threshold: float) -> dict[int, int]:
    """Match each row, in order, with the free column that it overlaps most.

    Args:
        ious: (R, C) overlaps, rows in the order in which they choose.
        allowed: (R, C) bool, which pairs may match.
        threshold: least IoU of a match.

    Returns:
        Row -> column, of the rows that found one.
    """
    free = allowed & (ious >= threshold)
    matches: dict[int, int] = {}
    for row in range(len(ious)):
        if free[row].any():
            best = int(np.argmax(np.where(free[row], ious[row], -1.0)))
            matches[row] = best
            free[:, best] = False
    return matches


def _mask(a: Annotation, image: Image) -> Rle:
    polygon = [box_to_polygon(a.bbox_xywh)]
    return segmentation_to_rle(a.segmentation or polygon, image.height, image.width)
