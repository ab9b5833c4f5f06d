"""Checks of every mask: can it be drawn, does it show anything, is it more than its box?"""

import math
from collections.abc import Iterator, Sequence

from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.findings import Found, object_place, with_images
from segtune.dataset.masks import (
    require_usable,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_rle,
)


def mask_findings(splits: Sequence[Split]) -> Iterator[Found]:
    """What is wrong with masks, each of which is drawn once."""
    for split in splits:
        for image, a in with_images(split):
            if a.segmentation and (found := _broken_by(a, image)):
                rule, text = found
                yield rule, object_place(split, image, a, text)


def _broken_by(a: Annotation, image: Image) -> tuple[str, str] | None:
    """The rule that a mask breaks, and what to say about it."""
    segmentation, height, width = a.segmentation, image.height, image.width
    size = segmentation.get("size") if isinstance(segmentation, dict) else [height, width]
    if size is not None and size != [height, width]:
        return "structure-mask-size", f"{str(size)[:40]} instead of {[height, width]}"
    try:
        require_usable(segmentation or [], height, width)
        rle = segmentation_to_rle(segmentation or [], height, width)
    except ValueError as error:
        return "structure-mask-unreadable", str(error)
    area, (_, _, w, h) = rle_area(rle), rle_bbox_xywh(rle)
    if not area:
        return "structure-mask-empty", ""
    # Of one row or column, every mask fills its box.
    if math.isclose(area, w * h) and min(w, h) > 1:
        return "object-mask-is-box", ""
    return None
