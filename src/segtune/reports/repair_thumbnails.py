"""A suspected label error twice: as it is labeled, and as it would be corrected."""

from collections.abc import Sequence

from PIL import Image as PilImage

from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.images import upright_rgb
from segtune.dataset.masks import BoxXywh, Segmentation, box_to_polygon
from segtune.evaluation.label_repair import Repair, corrected
from segtune.reports.drawing import (
    CORRECT,
    ERROR,
    FILL,
    THUMBNAIL,
    WHITE,
    View,
    data_uri,
    draw_mask,
)
from segtune.reports.finding_thumbnails import surroundings


def before_and_after(split: Split, issue: Repair) -> tuple[str, str]:
    """Both thumbnails as data URIs: the label in question in orange, its correction in green.

    Other labels there are outlined in white.

    Args:
        split: with the labels.
        issue: of this split.

    Raises:
        DatasetError: when the image cannot be read.
    """
    image = next(image for image in split.images if image.id == issue.image_id)
    labels, after = split.annotations[image.id], corrected(split, [issue])[image.id]
    before = [a for a in labels if a.id == issue.annotation_id]
    changed = [label.annotation for label in after if label.repair]
    others = [a for a in labels if a.id != issue.annotation_id]
    boxes = [issue.bbox_xywh, *(a.bbox_xywh for a in changed)]
    canvas, view = _opened(split, image, boxes)
    return (
        data_uri(_drawn(canvas, view, image, others, before, color=ERROR)),
        data_uri(_drawn(canvas, view, image, others, changed, color=CORRECT)),
    )


def _opened(split: Split, image: Image, boxes: Sequence[BoxXywh]) -> tuple[PilImage.Image, View]:
    """The part of an image around boxes, and which part that is."""
    whole = upright_rgb(split.image_path(image))
    view = surroundings(boxes, whole)
    zoom = THUMBNAIL / max(view[2] - view[0], view[3] - view[1])
    width, height = (max(1, round(zoom * (view[n + 2] - view[n]))) for n in range(2))
    left, right = (value / whole.width for value in view[::2])
    top, bottom = (value / whole.height for value in view[1::2])
    return whole.crop(view).resize((width, height)), (left, top, right, bottom)


def _drawn(
    canvas: PilImage.Image,
    view: View,
    image: Image,
    others: Sequence[Annotation],
    meant: Sequence[Annotation],
    *,
    color: str,
) -> PilImage.Image:
    drawn = canvas.copy()
    for a in others:
        draw_mask(drawn, image, _shape(a), color=WHITE, fill=0, view=view)
    for a in meant:
        draw_mask(drawn, image, _shape(a), color=color, fill=FILL, view=view)
    return drawn


def _shape(a: Annotation) -> Segmentation:
    return a.segmentation or [box_to_polygon(a.bbox_xywh)]
