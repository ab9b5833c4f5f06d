"""Checks of objects as the model will see them: how many, how large, labeled how often."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import product

from pycocotools import mask as mask_utils

from segtune.core.validate_settings import ValidateLimits
from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.findings import Found, image_place, is_finite, object_place
from segtune.dataset.masks import BoxXywh, require_usable, segmentation_to_rle
from segtune.dataset.tiles import Tiles, Window

MIN_SIDE = 1e-3  # pixels of a box that is compared with others; what is smaller is tiny anyway

Cell = tuple[int, int, int, int]  # size and place of a box, both coarse


def object_findings(
    splits: Sequence[Split],
    limits: ValidateLimits,
    *,
    queries: int,
    input_pixels: int,
    tiles: Tiles | None = None,
) -> Iterator[Found]:
    """Objects that the model can't tell apart, detect or see.

    Args:
        splits: as they were read.
        limits: of the settings.
        queries: of the model, each of which detects one object of a prompt.
        input_pixels: side of the square that each image, or each tile, is resized to.
        tiles: in which images are seen; None for whole images.
    """
    for split in splits:
        for image in split.images:
            objects = split.annotations[image.id]
            if not objects:
                yield "object-none", image_place(split, image)
                continue
            yield from _crowded(split, image, queries, tiles)
            usable = [a for a in objects if is_finite(a.bbox_xywh) and min(a.bbox_xywh[2:]) > 0]
            for a in usable:
                side = resized_side(a.bbox_xywh, image, input_pixels, tiles)
                if side < limits.min_object_pixels:
                    text = f"about {side:.1f} x {side:.1f} pixels of {input_pixels}"
                    yield "object-tiny", object_place(split, image, a, text)
            for one, other, overlap in duplicates(usable, image, limits.duplicate_iou):
                text = f"object {one.id} again, IoU {overlap:.2f}"
                yield "object-duplicate", object_place(split, image, other, text, [one])


def resized_side(
    bbox_xywh: BoxXywh, image: Image, input_pixels: int, tiles: Tiles | None = None
) -> float:
    """The side of a square as large as a box is in the model's input, in pixels.

    The input is a square, to which an image or each of its tiles is stretched.
    """
    _, _, w, h = bbox_xywh
    largest = (tiles and tiles.side) or math.inf
    seen = min(image.width, largest) * min(image.height, largest)
    return input_pixels * math.sqrt(w * h / seen)


def duplicates(
    objects: Sequence[Annotation], image: Image, min_iou: float
) -> Iterator[tuple[Annotation, Annotation, float]]:
    """Objects that an earlier one of the same class covers, with that one and the IoU.

    Boxes are compared first, and masks where both objects have one. What has been found is not
    compared again, so that many copies of one object take time in proportion to their number.

    Args:
        objects: of one image, with finite boxes that are not empty.
        image: that they are in.
        min_iou: at least 0.5, so that sizes and centers differ by less than a factor of two.
    """
    kept: dict[int, dict[Cell, list[Annotation]]] = defaultdict(lambda: defaultdict(list))
    for a in objects:
        if a.iscrowd or min(a.bbox_xywh[2:]) < MIN_SIDE:
            continue
        cells = kept[a.category_id]
        for other in _nearby(a.bbox_xywh, cells):
            overlap = _box_iou(a.bbox_xywh, other.bbox_xywh)
            if overlap >= min_iou and (overlap := _iou(a, other, image, overlap)) >= min_iou:
                yield other, a, overlap
                break
        else:
            cells[_cell(a.bbox_xywh)].append(a)


def _crowded(split: Split, image: Image, queries: int, tiles: Tiles | None) -> Iterator[Found]:
    objects = split.annotations[image.id]
    counts = Counter(a.category_id for a in objects if not a.iscrowd)
    if counts and tiles and max(counts.values()) > queries:
        counts = _largest_counts(image, objects, tiles)
    names = {category.id: category.name for category in split.categories}
    for number, count in counts.items():
        if count > queries:
            text = f"{count} of {names.get(number, number)}, but the model has {queries} queries"
            same = (a for a in objects if a.category_id == number)
            yield "object-crowded", image_place(split, image, text, same)


def _largest_counts(image: Image, objects: Sequence[Annotation], tiles: Tiles) -> Counter[int]:
    """How many objects of each class have their centers in one tile, at most."""
    windows = tiles.windows(image.width, image.height)
    counts: dict[int, Counter[int]] = defaultdict(Counter)
    for a in objects:
        x, y, w, h = a.bbox_xywh
        for n in tiles.near((x + w / 2, y + h / 2, 1, 1), image):
            if _has_center(windows[n], a):
                counts[n][a.category_id] += 1
    largest: Counter[int] = Counter()
    for n in sorted(counts):
        largest |= counts[n]
    return largest


def _has_center(window: Window, a: Annotation) -> bool:
    x, y, w, h = a.bbox_xywh
    inside = window.left <= x + w / 2 < window.right and window.top <= y + h / 2 < window.bottom
    return inside and not a.iscrowd


def _cell(box: BoxXywh) -> Cell:
    x, y, w, h = box
    wide, tall = math.frexp(w)[1], math.frexp(h)[1]
    return wide, tall, math.floor((x + w / 2) / 2.0**wide), math.floor((y + h / 2) / 2.0**tall)


def _nearby(box: BoxXywh, cells: dict[Cell, list[Annotation]]) -> Iterator[Annotation]:
    """What may have an IoU of at least 0.5 with a box.

    Then neither width nor height is more than twice the other's, and the centers are at most half
    of the smaller side apart.
    """
    if not cells:
        return
    x, y, w, h = box
    wide, tall = math.frexp(w)[1], math.frexp(h)[1]
    for i, j in product((wide - 1, wide, wide + 1), (tall - 1, tall, tall + 1)):
        columns = _reach(x + w / 2, 2.0**i)
        rows = _reach(y + h / 2, 2.0**j)
        for column, row in product(columns, rows):
            yield from cells.get((i, j, column, row), ())


def _reach(center: float, cell: float) -> range:
    # Sides of boxes of this level are below `cell`.
    return range(math.floor((center - cell / 2) / cell), math.floor((center + cell / 2) / cell) + 1)


def _box_iou(one: BoxXywh, other: BoxXywh) -> float:
    (x1, y1, w1, h1), (x2, y2, w2, h2) = one, other
    w = min(x1 + w1, x2 + w2) - max(x1, x2)
    h = min(y1 + h1, y2 + h2) - max(y1, y2)
    shared = max(w, 0.0) * max(h, 0.0)
    return shared / (w1 * h1 + w2 * h2 - shared)


def _iou(one: Annotation, other: Annotation, image: Image, of_boxes: float) -> float:
    """The IoU of two masks; of the boxes where one has no mask that can be drawn."""
    if not (one.segmentation and other.segmentation):
        return of_boxes
    height, width = image.height, image.width
    masks = []
    for segmentation in (one.segmentation, other.segmentation):
        try:
            require_usable(segmentation, height, width)
        except ValueError:
            return of_boxes
        masks.append(segmentation_to_rle(segmentation, height, width))
    return float(mask_utils.iou(masks[:1], masks[1:], [0])[0, 0])
