"""Images with the outlines of what is there and of what was found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFilter, ImageOps

from segtune.core.atomic import atomic_path
from segtune.dataset.coco import Image, Split
from segtune.dataset.masks import Segmentation, segmentation_to_mask

TILE = 320  # pixels
COLUMNS = 4
SCORE = 0.5  # detections below it are not drawn
# Colors that people with a color vision deficiency tell apart (Okabe and Ito 2008).
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
TRUTH = "#ffffff"

Pixels = npt.NDArray[np.uint8]  # (height, width, 3)


def spread_out(images: Sequence[Image], count: int) -> list[Image]:
    """At most `count` images from the beginning to the end, the same every time."""
    places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    return [images[place] for place in places]


def contact_sheet(
    split: Split, images: Sequence[Image], results: Sequence[Mapping[str, Any]]
) -> Pixels:
    """One image of tiles: ground truth in white, detections in the color of their class.

    Args:
        split: the ground truth.
        images: of the split, one per tile.
        results: detections in COCO's results format.
    """
    rows = -(-len(images) // COLUMNS)
    sheet = PilImage.new("RGB", (COLUMNS * TILE, rows * TILE))
    for number, image in enumerate(images):
        mine = [r for r in results if r["image_id"] == image.id and r["score"] >= SCORE]
        place = (number % COLUMNS * TILE, number // COLUMNS * TILE)
        sheet.paste(_tile(split, image, mine), place)
    return np.asarray(sheet)


def save_sheet(path: Path, sheet: Pixels) -> None:
    """Write a sheet as JPEG."""
    with atomic_path(path) as temporary:
        PilImage.fromarray(sheet).save(temporary, "JPEG", quality=85)


def silhouette(
    image: Image, segmentation: Segmentation, size: tuple[int, int]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """A mask and its edge at another size.

    Args:
        image: that the mask belongs to.
        segmentation: polygons or RLE.
        size: (width, height) in pixels, as Pillow has it.

    Returns:
        Two masks (height, width).
    """
    mask = segmentation_to_mask(segmentation, image.height, image.width)
    shape = PilImage.fromarray(mask * np.uint8(255)).resize(size)
    inner = shape.filter(ImageFilter.MinFilter(3))
    pixels = np.asarray(shape)
    return pixels > 127, pixels > np.maximum(np.asarray(inner), 127)


def _tile(split: Split, image: Image, results: Sequence[Mapping[str, Any]]) -> PilImage.Image:
    with PilImage.open(split.image_path(image)) as opened:
        canvas = ImageOps.exif_transpose(opened).convert("RGB")
    tile = ImageOps.contain(canvas, (TILE, TILE))
    for annotation in split.annotations[image.id]:
        _outline(tile, image, annotation.segmentation, annotation.bbox_xywh, TRUTH)
    places = {category.id: place for place, category in enumerate(split.categories)}
    names = {category.id: category.name for category in split.categories}
    for result in sorted(results, key=lambda r: r["score"]):
        color = COLORS[places[result["category_id"]] % len(COLORS)]
        _outline(tile, image, result["segmentation"], result["bbox"], color)
        x, y = (value * tile.width / image.width for value in result["bbox"][:2])
        text = f"{names[result['category_id']]} {result['score']:.2f}"
        ImageDraw.Draw(tile).text((x, y), text, color, stroke_width=2, stroke_fill="#000000")
    return tile


def _outline(
    tile: PilImage.Image,
    image: Image,
    segmentation: Segmentation | None,
    bbox_xywh: Sequence[float],
    color: str,
) -> None:
    scale = tile.width / image.width
    if not segmentation:
        x, y, width, height = (value * scale for value in bbox_xywh)
        ImageDraw.Draw(tile).rectangle((x, y, x + width, y + height), outline=color)
        return
    _, edge = silhouette(image, segmentation, tile.size)
    tile.paste(color, (0, 0), PilImage.fromarray(edge.astype(np.uint8) * 255))
