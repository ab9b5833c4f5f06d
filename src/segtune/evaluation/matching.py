"""Matching detections with ground truth: IoU, a greedy matcher, and the matches of a class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_utils

from segtune.dataset.coco import Annotation, Image
from segtune.dataset.detections import Detection
from segtune.dataset.masks import Rle, box_to_polygon, segmentation_to_rle
from segtune.evaluation.arrays import Array

MATCH_IOU = 0.5  # at or above it, two shapes count as the same object


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class over all images, highest score first.

    `matched` and `counted` hold, per IoU threshold, whether a detection matches an object and
    whether it counts at all (one that matches a crowd does not).
    """

    score: Array  # (N,)
    image: Array  # (N,) position of the image in the split
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
) -> Array:
    """(detections, objects) IoU in one image, by pycocotools.

    Args:
        image: gives the size of the masks.
        detections: in the image.
        objects: the ground truth; the box of an object without a mask stands in for it.
        regions: per object, whether it is a region that may hold several objects (a crowd):
            its IoU is the fraction of the detection that lies inside it.
        with_masks: compare masks, else boxes.
    """
    if not objects or not detections:
        return np.zeros((len(detections), len(objects)))
    crowds = [int(region) for region in regions]
    if with_masks:
        predicted, labeled = [d.rle for d in detections], [_mask(a, image) for a in objects]
        ious: Array = mask_utils.iou(predicted, labeled, crowds)
    else:
        boxes = [list(d.bbox_xywh) for d in detections]
        ious = mask_utils.iou(boxes, [list(a.bbox_xywh) for a in objects], crowds)
    return ious


def match_greedily(ious: Array, allowed: Array, threshold: float) -> dict[int, int]:
    """Match each row, in order, with the free column that has the highest IoU.

    Args:
        ious: (R, C), rows in the order in which they choose.
        allowed: (R, C) bool, which pairs may match.
        threshold: minimum IoU of a match.

    Returns:
        Row -> column, of the rows with a match; among equal IoUs the first column.
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
