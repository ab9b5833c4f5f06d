"""Drawing on images: outlines and boxes, labels that do not overlap, thumbnails and sheets."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFilter, ImageFont

from segtune.core.atomic import atomic_path
from segtune.dataset.coco import Image, Split
from segtune.dataset.detections import Detection, Detections
from segtune.dataset.images import upright_rgb
from segtune.dataset.masks import BoxXywh, Segmentation, segmentation_to_mask

THUMBNAIL = 288  # pixels of the longer side
TILE = 320  # pixels of a side
COLUMNS = 4  # of a sheet
MARGIN = 0.5  # around a crop, as a fraction of its box
FONT_SIZE = 12  # pixels
LINE_WIDTH = 2  # pixels
FILL = 70  # opacity inside masks, 0 to 255
# Colors that people with a color vision deficiency can tell apart (Okabe and Ito 2008).
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
WHITE = "#ffffff"
GROUND_TRUTH = "#56b4e9"
CORRECT = "#009e73"
ERROR = "#d55e00"

WHOLE = (0.0, 0.0, 1.0, 1.0)

Mask = npt.NDArray[np.bool_]  # (height, width)
Pixels = npt.NDArray[np.uint8]  # (height, width, 3)
View = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of an image


@dataclass(frozen=True)
class Label:
    """Text above a box, in pixels of the image."""

    bbox_xywh: BoxXywh
    text: str
    color: str = WHITE


def open_fitted(split: Split, image: Image, side: int) -> PilImage.Image:
    """An image whose longer side has `side` pixels.

    Raises:
        DatasetError: when the image cannot be read.
    """
    scale = side / max(image.width, image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return upright_rgb(split.image_path(image), draft_side=2 * side).resize(size)


def draw_object(
    canvas: PilImage.Image,
    image: Image,
    segmentation: Segmentation | None,
    bbox_xywh: BoxXywh,
    *,
    color: str,
    fill: int = 0,
) -> None:
    """Draw the outline of a mask, or a box where there is no mask.

    Args:
        canvas: the image, at any size.
        image: that the object is in.
        segmentation: of the object.
        bbox_xywh: of the object, in pixels of the image.
        color: of the outline.
        fill: opacity inside a mask, 0 to 255.
    """
    if not segmentation:
        scale = canvas.width / image.width
        x, y, w, h = (value * scale for value in bbox_xywh)
        corners = (x, y, x + w, y + h)
        ImageDraw.Draw(canvas).rectangle(corners, outline=color, width=LINE_WIDTH)
        return
    draw_mask(canvas, image, segmentation, color=color, fill=fill)


def draw_mask(
    canvas: PilImage.Image,
    image: Image,
    segmentation: Segmentation,
    *,
    color: str,
    fill: int,
    view: View = WHOLE,
) -> None:
    """Draw the outline of a mask.

    Args:
        canvas: the image, at any size.
        image: that the mask belongs to.
        segmentation: polygons or RLE.
        color: of the outline.
        fill: opacity inside, 0 to 255.
        view: the part of the image that the canvas shows.
    """
    inside, edge = silhouette(image, segmentation, canvas.size, view)
    opacity = np.where(edge, 255, np.where(inside, fill, 0)).astype(np.uint8)
    canvas.paste(color, (0, 0), PilImage.fromarray(opacity))


def silhouette(
    image: Image, segmentation: Segmentation, size: tuple[int, int], view: View = WHOLE
) -> tuple[Mask, Mask]:
    """A mask and its edge at another size.

    Args:
        image: that the mask belongs to.
        segmentation: polygons or RLE.
        size: (width, height) in pixels, as in Pillow.
        view: the part of the image that is wanted.
    """
    mask = segmentation_to_mask(segmentation, image.height, image.width)
    left, top, right, bottom = view
    part = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    shape = PilImage.fromarray(mask * np.uint8(255)).resize(size, box=part)
    inner = shape.filter(ImageFilter.MinFilter(3))
    pixels = np.asarray(shape)
    return pixels > 127, pixels > np.maximum(np.asarray(inner), 127)


def write_labels(canvas: PilImage.Image, image: Image, labels: Iterable[Label]) -> None:
    """Write each label above its box; one that would overlap an earlier one is left out."""
    scale = canvas.width / image.width
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    taken: list[tuple[float, float, float]] = []  # left, top, right
    for label in labels:
        width = pen.textlength(label.text, font)
        x = max(2.0, min(label.bbox_xywh[0] * scale, canvas.width - width - 2))
        y = max(1.0, label.bbox_xywh[1] * scale - FONT_SIZE - 3)
        if all(
            y + FONT_SIZE < top or top + FONT_SIZE < y or x + width < left or right < x
            for left, top, right in taken
        ):
            pen.text((x, y), label.text, label.color, font, stroke_width=2, stroke_fill="#000000")
            taken.append((x, y, x + width))


def crop(split: Split, image: Image, bbox_xywh: BoxXywh) -> PilImage.Image:
    """A box and its surroundings as a thumbnail, with the box drawn."""
    x, y, w, h = bbox_xywh
    margin = MARGIN * max(w, h)
    left, top = int(max(0.0, x - margin)), int(max(0.0, y - margin))
    right = math.ceil(min(image.width, x + w + margin))
    bottom = math.ceil(min(image.height, y + h + margin))
    piece = upright_rgb(split.image_path(image)).crop((left, top, right, bottom))
    scale = THUMBNAIL / max(piece.size)
    width, height = (max(1, round(side * scale)) for side in piece.size)
    piece = piece.resize((width, height))
    x, y = (x - left) * scale, (y - top) * scale
    corners = (x, y, x + w * scale, y + h * scale)
    ImageDraw.Draw(piece).rectangle(corners, outline=ERROR, width=LINE_WIDTH)
    return piece


def data_uri(canvas: PilImage.Image) -> str:
    """An image as a JPEG within a page."""
    file = io.BytesIO()
    canvas.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def contact_sheet(split: Split, images: Sequence[Image], detections: Detections) -> Pixels:
    """One image of tiles: ground truth in white, detections in the color of their class.

    Args:
        split: the ground truth.
        images: of the split, one per tile.
        detections: on these images.
    """
    rows = -(-len(images) // COLUMNS)
    sheet = PilImage.new("RGB", (COLUMNS * TILE, rows * TILE))
    for number, image in enumerate(images):
        place = (number % COLUMNS * TILE, number // COLUMNS * TILE)
        sheet.paste(_tile(split, image, detections.in_image(image.id)), place)
    return np.asarray(sheet)


def save_sheet(path: Path, sheet: Pixels) -> None:
    """Write a sheet as JPEG, atomically."""
    with atomic_path(path) as temporary:
        PilImage.fromarray(sheet).save(temporary, "JPEG", quality=85)


def _tile(split: Split, image: Image, detections: Sequence[Detection]) -> PilImage.Image:
    tile = open_fitted(split, image, TILE)
    for a in split.annotations[image.id]:
        draw_object(tile, image, a.segmentation, a.bbox_xywh, color=WHITE)
    found = [_Labeled(d.rle, d.bbox_xywh, d.category_id, d.score) for d in detections]
    _draw_labeled(tile, split, image, found, fill=0)
    return tile


def drawn_labels(
    split: Split, image: Image, scores: Mapping[int, float], *, side: int
) -> PilImage.Image:
    """An image with its labels in the colors of their classes.

    Args:
        split: with the labels.
        image: of the split.
        scores: by annotation id, where there are any.
        side: longest side of the result, in pixels; a smaller image keeps its size.

    Raises:
        DatasetError: when the image cannot be read.
    """
    canvas = open_fitted(split, image, min(side, max(image.width, image.height)))
    labels = [
        _Labeled(a.segmentation, a.bbox_xywh, a.category_id, scores.get(a.id))
        for a in split.annotations[image.id]
    ]
    _draw_labeled(canvas, split, image, labels, fill=FILL)
    return canvas


@dataclass(frozen=True)
class _Labeled:
    """An object that is drawn in the color of its class."""

    segmentation: Segmentation | None
    bbox_xywh: BoxXywh
    category_id: int
    score: float | None  # of a detection

    @property
    def confidence(self) -> float:
        """By which objects are ordered: what people have drawn comes first."""
        return 1.0 if self.score is None else self.score


def _draw_labeled(
    canvas: PilImage.Image, split: Split, image: Image, objects: Sequence[_Labeled], *, fill: int
) -> None:
    """Draw objects with the names of their classes; the most confident are on top."""
    names = {category.id: category.name for category in split.categories}
    colors = {c.id: COLORS[place % len(COLORS)] for place, c in enumerate(split.categories)}
    best_first = sorted(objects, key=lambda one: -one.confidence)
    for one in reversed(best_first):
        color = colors[one.category_id]
        draw_object(canvas, image, one.segmentation, one.bbox_xywh, color=color, fill=fill)
    labels = [
        Label(
            one.bbox_xywh,
            names[one.category_id] + ("" if one.score is None else f" {one.score:.2f}"),
            colors[one.category_id],
        )
        for one in best_first
    ]
    write_labels(canvas, image, labels)
