"""A split cut into tiles: which windows of its images are used, and what of each object is in them.

An object whose mask is cut is labeled in the tile that shows most of it; then, by decreasing
area, in each tile that shows at least half as much, or a part of it that none so far has shown.
So the labels of an object are all of it together. In any other tile the rest of it is a region to
ignore: neither a target nor a reason to prompt the class as a negative.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.mask_windows import area_within, cut, without
from segtune.dataset.masks import (
    BoxXywh,
    Rle,
    box_to_rle,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_rle,
)
from segtune.dataset.tiles import Tiles, Window

TILE_NAME = re.compile(r"\w+/\d+_([0-9a-f]{16})_x(\d+)_y(\d+)\.png")  # see `tile_name`
MIN_FRACTION = 0.5  # of what the tile with most of an object shows of it


@dataclass(frozen=True)
class Tile:
    """A window that is used, as an image."""

    image: Image
    source: Image
    window: Window
    annotations: tuple[Annotation, ...]

    @property
    def has_objects(self) -> bool:
        """Whether there is something to detect, and not only regions to ignore."""
        return any(not a.iscrowd for a in self.annotations)


def tiled_split(split: Split, tiles: Tiles) -> list[Tile]:
    """The tiles of a split: all with objects, and of each image as many empty ones.

    An image has at least one empty tile, if it has any. Which ones depends only on its name.
    """
    numbers, ids = count(1), count(1)
    return [
        _with_ids(tile, next(numbers), ids)
        for image in split.images
        for tile in _used(split, image, tiles)
    ]


def split_of_tiles(split: Split, used: Sequence[Tile]) -> Split:
    """The split that some tiles are; its images are relative to the folder of the tiles."""
    return replace(
        split,
        images=tuple(tile.image for tile in used),
        annotations={tile.image.id: tile.annotations for tile in used},
    )


def tile_name(split: str, image: Image, window: Window) -> str:
    """The file of a tile, relative to the folder of the tiles.

    It has the id of the image, for people, and its key: in another dataset, the id is another's.
    """
    key = source_key(image.file_name)
    return f"{split}/{image.id}_{key}_x{window.left}_y{window.top}.png"


def source_key(file_name: str) -> str:
    """What the tiles of an image have in their names, by its own name."""
    return hashlib.sha256(file_name.encode()).hexdigest()[:16]


def tile_source(tile: Image) -> tuple[str, Window]:
    """The key of the image that a tile is from, and where in it the tile is."""
    found = TILE_NAME.fullmatch(tile.file_name)
    assert found, tile.file_name  # of `tile_name`
    key, left, top = found.groups()
    return key, Window(int(left), int(top), tile.width, tile.height)


def _used(split: Split, image: Image, tiles: Tiles) -> Iterator[Tile]:
    windows = tiles.windows(image.width, image.height)
    found: list[list[Annotation]] = [[] for _ in windows]
    for a in split.annotations[image.id]:
        for place, piece in _pieces(a, image, tiles, windows):
            found[place].append(piece)
    all_tiles = [
        Tile(_image(split, image, window), image, window, tuple(annotations))
        for window, annotations in zip(windows, found, strict=True)
    ]
    number = sum(tile.has_objects for tile in all_tiles)
    empty = sorted((t for t in all_tiles if not t.annotations), key=_drawn_order)
    chosen = {tile.window for tile in empty[: max(1, number)]}
    for tile in all_tiles:
        if tile.has_objects or tile.window in chosen:
            yield tile


def _drawn_order(tile: Tile) -> bytes:
    name = f"{tile.source.file_name} {tile.window.left} {tile.window.top}"
    return hashlib.sha256(name.encode()).digest()


def _image(split: Split, image: Image, window: Window) -> Image:
    return Image(
        id=0,
        file_name=tile_name(split.name, image, window),
        width=window.width,
        height=window.height,
        fields=image.fields,
        # What keeps copies together keeps the tiles of an image together.
        original=image.original or image.file_name,
    )


def _with_ids(tile: Tile, number: int, ids: Iterator[int]) -> Tile:
    annotations = (replace(a, id=next(ids), image_id=number) for a in tile.annotations)
    return replace(tile, image=replace(tile.image, id=number), annotations=tuple(annotations))


def _pieces(
    a: Annotation, image: Image, tiles: Tiles, windows: Sequence[Window]
) -> list[tuple[int, Annotation]]:
    """What of an object is in each window that shows any of it, with the window's place."""
    rle = a.segmentation and segmentation_to_rle(a.segmentation, image.height, image.width)
    # A polygon may be so thin that no pixel is in it.
    mask = rle if rle and rle_area(rle) else None
    box = rle_bbox_xywh(mask) if mask else a.bbox_xywh
    near = [(n, part) for n in tiles.near(box, image) if (part := box_within(box, windows[n]))]
    if mask:
        found = [(n, _masked(a, cut(mask, windows[n]))) for n, _ in near]
        found = [(n, piece) for n, piece in found if piece.area]
    else:
        found = [(n, _boxed(a, part)) for n, part in near]
    drawn = mask or box_to_rle(box, image.height, image.width)
    labeled = _labeled({n: piece.area for n, piece in found}, windows, drawn)
    return [(n, piece if n in labeled else replace(piece, iscrowd=1)) for n, piece in found]


def _labeled(areas: Mapping[int, float], windows: Sequence[Window], rest: Rle) -> set[int]:
    """In which windows an object is labeled.

    Args:
        areas: of its pieces, by the place of the window.
        windows: of the image.
        rest: the object.
    """
    chosen: set[int] = set()
    for n in sorted(areas, key=lambda n: -areas[n]):
        large = areas[n] >= MIN_FRACTION * max(areas.values())
        if large or area_within(rest, windows[n]):
            chosen.add(n)
            rest = without(rest, windows[n])
    return chosen


def _masked(a: Annotation, rle: Rle) -> Annotation:
    return replace(a, segmentation=rle, bbox_xywh=rle_bbox_xywh(rle), area=rle_area(rle))


def _boxed(a: Annotation, box: BoxXywh) -> Annotation:
    return replace(a, segmentation=None, bbox_xywh=box, area=box[2] * box[3])


def box_within(box: BoxXywh, window: Window) -> BoxXywh | None:
    """The part of a box in a window, in pixels of the window; None without any."""
    x, y, w, h = box
    left, top = max(x, window.left), max(y, window.top)
    right, bottom = min(x + w, window.right), min(y + h, window.bottom)
    if right <= left or bottom <= top:
        return None
    return left - window.left, top - window.top, right - left, bottom - top
