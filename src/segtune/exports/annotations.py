"""Normalizing the annotations of an export, and logging every repair."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from segtune.core.errors import shown
from segtune.dataset.masks import (
    MAX_COORDINATE,
    MIN_POLYGON_NUMBERS,
    BoxXywh,
    Rle,
    Segmentation,
    require_drawable,
    rle_area,
    rle_bbox_xywh,
    run_lengths,
    segmentation_to_rle,
)
from segtune.exports.repairs import Repairs
from segtune.exports.split_source import EXPORT_AGAIN, Place, SourceAnnotation, SourceImage

MAX_BOX_OFFSET = 1.0  # pixels between a recorded box and its mask's
CORRECT_IT = "Correct it, or remove the annotation"
MAX_TESTED_POINTS = 10_000  # of a polygon; the test for crossings can take quadratic time
RULE_EMPTY_BOX = "box with no area dropped"
RULE_BOX_OUTSIDE = "box outside the image dropped"


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where an object is; computed from its mask if it has one."""

    bbox_xywh: BoxXywh  # pixels
    area: float  # pixels
    segmentation: Segmentation | None
    iscrowd: int


def normalize_annotation(
    annotation: SourceAnnotation, image: SourceImage, repairs: Repairs
) -> Geometry | None:
    """Exact box, area and segmentation of one object.

    Returns:
        None where no part of the object is inside the image.

    Raises:
        ExportError: when a number, a box or a mask is invalid.
    """
    box_xywh = _box(annotation, repairs)
    segmentation = _segmentation(annotation, image, repairs)
    iscrowd = annotation.iscrowd or 0
    if iscrowd not in (0, 1):
        raise annotation.place.error(f"iscrowd is {shown(iscrowd)} instead of 0 or 1", CORRECT_IT)
    if segmentation is not None:
        rle = segmentation_to_rle(segmentation, image.height, image.width)
        area = rle_area(rle)
        if area:
            exact = rle_bbox_xywh(rle)
            if max(abs(a - b) for a, b in zip(exact, box_xywh, strict=True)) > MAX_BOX_OFFSET:
                repairs.log("box recomputed from the mask", annotation.place, list(box_xywh))
            return Geometry(exact, area, segmentation, int(iscrowd))
        repairs.log("empty mask dropped, box kept", annotation.place, annotation.segmentation)
    clipped = _clip(box_xywh, image, annotation.place, repairs)
    if clipped is None:
        return None
    return Geometry(clipped, clipped[2] * clipped[3], None, int(iscrowd))


def parse_number(value: Any, place: Place, repairs: Repairs | None = None) -> float:
    """A finite number of a plausible size, also where it was written as text.

    Raises:
        ExportError: for anything else.
    """
    if isinstance(value, str):
        if repairs:
            repairs.log("number written as text", place, value)
        try:
            value = float(value)
        except ValueError:
            raise place.error(f"{shown(value)} is not a number", CORRECT_IT) from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise place.error(f"{shown(value)} is not a number", CORRECT_IT)
    # Written so that NaN fails too, and before float() meets an endless integer.
    if not abs(value) <= MAX_COORDINATE:
        raise place.error(f"{shown(value)} is not a valid coordinate", CORRECT_IT)
    return float(value)


def _numbers(values: Any, place: Place, repairs: Repairs) -> Sequence[float]:
    # Written so that NaN goes the slow way too, where it is refused by name.
    if isinstance(values, array) and np.abs(values).max(initial=0) <= MAX_COORDINATE:
        return values
    if not isinstance(values, list | array):
        raise place.error(f"{shown(values)} is not a list of numbers", CORRECT_IT)
    return [parse_number(value, place, repairs) for value in values]


def _box(annotation: SourceAnnotation, repairs: Repairs) -> BoxXywh:
    values = _numbers(annotation.bbox, annotation.place, repairs)
    if len(values) != 4:
        raise annotation.place.error(f"bbox has {len(values)} numbers instead of 4", CORRECT_IT)
    return values[0], values[1], values[2], values[3]


def _clip(box_xywh: BoxXywh, image: SourceImage, place: Place, repairs: Repairs) -> BoxXywh | None:
    x, y, w, h = box_xywh
    if w <= 0 or h <= 0:
        repairs.log(RULE_EMPTY_BOX, place, list(box_xywh))
        return None
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, float(image.width)), min(y + h, float(image.height))
    if right <= left or bottom <= top:
        repairs.log(RULE_BOX_OUTSIDE, place, list(box_xywh))
        return None
    clipped = (left, top, right - left, bottom - top)
    if max(abs(a - b) for a, b in zip(clipped, box_xywh, strict=True)) > 1e-6:
        repairs.log("box clipped to the image", place, list(box_xywh))
        return clipped
    return box_xywh


def _segmentation(
    annotation: SourceAnnotation, image: SourceImage, repairs: Repairs
) -> Segmentation | None:
    value, place = annotation.segmentation, annotation.place
    if not value:
        return None
    if isinstance(value, dict):
        return _rle(value, image, place, repairs)
    if not isinstance(value, list):
        raise place.error("segmentation is neither polygons nor RLE", CORRECT_IT)
    if not isinstance(value[0], list | array):
        repairs.log("flat polygon wrapped in a list", place, value)
        value = [value]
    return _polygons(value, place, repairs)


def _polygons(parts: list[Any], place: Place, repairs: Repairs) -> list[Sequence[float]] | None:
    valid = []
    for part in (_numbers(part, place, repairs) for part in parts):
        if len(part) < MIN_POLYGON_NUMBERS or len(part) % 2:
            rule = "polygon with fewer than three points or an odd number of values dropped"
            repairs.log(rule, place, list(part))
            continue
        valid.append(part)
        _log_crossings(part, place, repairs)
    try:
        require_drawable(valid)
    except ValueError as error:
        raise place.error(str(error), CORRECT_IT) from None
    if not valid:
        repairs.log("object without a valid polygon kept as a box", place, [list(p) for p in parts])
    return valid or None


def _log_crossings(part: Sequence[float], place: Place, repairs: Repairs) -> None:
    if len(part) > 2 * MAX_TESTED_POINTS:
        rule = f"polygon of more than {MAX_TESTED_POINTS} points not tested for self-intersection"
        repairs.log(rule, place, {"points": len(part) // 2})
        return
    points = np.asarray(memoryview(part) if isinstance(part, array) else part)
    if not shapely.linearrings(points.reshape(-1, 2)).is_simple:
        rule = "self-intersecting polygon filled as pycocotools does"
        repairs.log(rule, place, list(part))


def _rle(value: Rle, image: SourceImage, place: Place, repairs: Repairs) -> Rle:
    try:
        runs = run_lengths(value, image.height, image.width)
    except ValueError as error:
        raise place.error(str(error), EXPORT_AGAIN) from None
    if isinstance(value["counts"], list):
        repairs.log("uncompressed RLE compressed", place, {"runs": len(runs)})
    return segmentation_to_rle(value, image.height, image.width)
