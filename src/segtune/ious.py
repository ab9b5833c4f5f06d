"""How much detections and objects of one picture overlap."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_utils

from segtune.coco import Annotation, Image, segmentation_to_rle


def ious(
    image: Image,
    detections: Sequence[Mapping[str, Any]],
    objects: Sequence[Annotation],
    regions: Sequence[bool],
    with_masks: bool,
) -> npt.NDArray[np.float64]:
    """(detections, objects) intersections over unions, by pycocotools.

    Args:
        image: its size is that of the masks.
        detections: in COCO's results format.
        objects: the ground truth; one without a mask is taken for its box.
        regions: per object, whether it is a region in which a detection may lie, rather than
            one object: then the overlap is the share of the detection that lies in it.
        with_masks: compare masks, else boxes.
    """
    if not objects or not detections:
        return np.zeros((len(detections), len(objects)))
    shapes: list[Any]
    truth: list[Any]
    if with_masks:
        shapes, truth = [d["segmentation"] for d in detections], [_mask(a, image) for a in objects]
    else:
        shapes, truth = [d["bbox"] for d in detections], [list(a.bbox_xywh) for a in objects]
    found: npt.NDArray[np.float64] = mask_utils.iou(shapes, truth, [int(r) for r in regions])
    return found


def _mask(a: Annotation, image: Image) -> dict[str, Any]:
    x, y, w, h = a.bbox_xywh
    rectangle = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return segmentation_to_rle(a.segmentation or rectangle, image.height, image.width)
