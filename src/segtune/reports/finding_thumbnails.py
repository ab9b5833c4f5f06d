"""Thumbnails of what validation found: the image, with the objects in question drawn."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image as PilImage
from PIL import ImageDraw

from segtune.core.errors import DatasetError
from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.findings import Place, is_finite
from segtune.dataset.images import upright_rgb
from segtune.dataset.masks import (
    BoxXywh,
    Rle,
    require_usable,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_rle,
)
from segtune.reports.drawing import COLORS, FILL, LINE_WIDTH, THUMBNAIL, data_uri, draw_mask

MIN_VIEW = 160  # pixels of a side that are shown around an object
CONTEXT = 3  # sides of what is shown, by the sides of the objects in it
MIN_OUTLINE = 12  # pixels of a drawn side
MARK = COLORS[3]  # the brightest
DRAFT = 1024  # pixels to which a larger JPEG may be reduced as it is decoded

Images = Mapping[tuple[str, str], tuple[Split, list[Image]]]


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail as a data URI, and what it shows."""

    uri: str
    description: str


def images_by_name(splits: Iterable[Split]) -> Images:
    """Name of a split and of a file -> the split, and its records of that file: mostly one."""
    found: dict[tuple[str, str], tuple[Split, list[Image]]] = {}
    for split in splits:
        for image in split.images:
            found.setdefault((split.name, image.file_name), (split, []))[1].append(image)
    return found


def thumbnails(place: Place, images: Images) -> list[Thumbnail]:
    """The image of an example, or both of a pair; none where a file cannot be read.

    Args:
        place: the example.
        images: of the dataset.
    """
    found: list[Thumbnail | None] = []
    if known := images.get((place.split, place.image)):
        split, records = known
        found.append(_thumbnail(split, records[0], _objects(split, records, place.object_ids)))
    if known := images.get((place.other_split, place.other_image)):
        split, records = known
        objects = _objects(split, records, place.other_object_ids)
        found.append(_thumbnail(split, records[0], objects))
    return [thumbnail for thumbnail in found if thumbnail]


def _objects(split: Split, records: Sequence[Image], ids: Iterable[int]) -> list[Annotation]:
    """The objects of these ids that can be drawn."""
    wanted, numbers = set(ids), {record.id for record in records}
    found = [a for number in numbers for a in split.annotations[number] if a.id in wanted]
    return [a for a in found if is_finite(a.bbox_xywh) or _drawable(a, records[0])]


def _thumbnail(split: Split, image: Image, objects: Sequence[Annotation]) -> Thumbnail | None:
    try:
        canvas = upright_rgb(split.image_path(image), draft_side=DRAFT)
    except DatasetError:  # which is what some rules find
        return None
    drawn = _drawn(canvas, image, objects)
    count = f", {len(objects)} object{'' if len(objects) == 1 else 's'} outlined" if objects else ""
    return Thumbnail(data_uri(drawn), f"{split.name}: {image.file_name}{count}")


def _drawn(canvas: PilImage.Image, image: Image, objects: Sequence[Annotation]) -> PilImage.Image:
    """The part of an image that shows objects, with their masks and boxes."""
    masks = [rle for a in objects if (rle := _drawable(a, image))]
    scale = canvas.width / image.width  # of a large JPEG, less than 1
    boxes = [_scaled(a.bbox_xywh, scale) for a in objects if is_finite(a.bbox_xywh)]
    # A box may lie elsewhere than its mask.
    view = surroundings([*boxes, *(_scaled(rle_bbox_xywh(rle), scale) for rle in masks)], canvas)
    zoom = THUMBNAIL / max(view[2] - view[0], view[3] - view[1])
    size = [max(1, round(zoom * (end - start))) for start, end in zip(view, view[2:], strict=False)]
    drawn = canvas.crop(view).resize((size[0], size[1]))
    left, right = (value / canvas.width for value in view[::2])
    top, bottom = (value / canvas.height for value in view[1::2])
    for rle in masks:
        draw_mask(drawn, image, rle, color=MARK, fill=FILL, view=(left, top, right, bottom))
    for x, y, w, h in boxes:
        _outline(drawn, ((x - view[0]) * zoom, (y - view[1]) * zoom, w * zoom, h * zoom))
    return drawn


def _drawable(a: Annotation, image: Image) -> Rle | None:
    """The mask of an object; None where it has none, or one that is broken or empty."""
    if not (segmentation := a.segmentation):
        return None
    try:
        require_usable(segmentation, image.height, image.width)
    except ValueError:  # which is what some rules find
        return None
    rle = segmentation_to_rle(segmentation, image.height, image.width)
    return rle if rle_area(rle) else None


def _scaled(box: BoxXywh, scale: float) -> BoxXywh:
    x, y, w, h = box
    return x * scale, y * scale, w * scale, h * scale


def surroundings(boxes: Sequence[BoxXywh], canvas: PilImage.Image) -> tuple[int, int, int, int]:
    """Which part of an image shows its boxes with enough around them to recognize the place."""
    view = [0, 0, 0, 0]
    for axis, length in enumerate(canvas.size):
        low = max(0.0, min((box[axis] for box in boxes), default=0.0))
        high = min(float(length), max((box[axis] + box[axis + 2] for box in boxes), default=length))
        wanted = min(length, max(math.ceil(CONTEXT * (high - low)), min(MIN_VIEW, length)))
        start = min(max(0, round((low + high - wanted) / 2)), length - wanted)
        view[axis], view[axis + 2] = start, start + wanted
    return view[0], view[1], view[2], view[3]


def _outline(canvas: PilImage.Image, box: BoxXywh) -> None:
    """Draw a box, one that is tiny with a distance around it."""
    corners: list[float] = []
    ends: list[float] = []
    for start, side, length in zip(box, box[2:], canvas.size, strict=False):
        more = max(0.0, MIN_OUTLINE - side) / 2
        corners.append(_within(start - more, length))
        ends.append(max(corners[-1] + 3, _within(start + max(0.0, side) + more, length)))
    draw = ImageDraw.Draw(canvas)
    # Dark beside bright: one of them is seen on every image.
    draw.rectangle([*corners, *ends], outline="#000000", width=LINE_WIDTH + 2)
    inner = [*(value + 1 for value in corners), *(value - 1 for value in ends)]
    draw.rectangle(inner, outline=MARK, width=LINE_WIDTH)


def _within(value: float, length: int) -> float:
    # Lines just outside: a box may be far larger than its image.
    return min(max(value, -LINE_WIDTH - 2.0), length + LINE_WIDTH + 2.0)
