"""Detections in the windows of an image, stitched to detections in the image.

A detection that is cut by an inner edge of its window, and lies within half of the overlap from
that edge, is left out: another window shows more of the object. By falling confidence, each of the
others joins those of its class with which it agrees, at most one of each window. Two agree if
their masks are alike where both windows look (an IoU of at least 0.5), or if one is cut and at
least half of it is in the other. What has joined is one object. Its mask is that of the most
confident detection in a window that has all of it, or, without such a window, all masks together;
its score is the highest. A detection without a pixel in its mask is compared by its box.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as mask_utils

from segtune.dataset.coco import Image
from segtune.dataset.detections import Detection
from segtune.dataset.mask_windows import area_within, placed
from segtune.dataset.masks import (
    BoxXywh,
    Rle,
    box_to_rle,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_rle,
)
from segtune.dataset.tiles import Window

MIN_AGREEMENT = 0.5  # IoU where both windows look, or the fraction of a piece that is covered
DUPLICATE_IOU = 0.7  # of objects that no window has both of; the less confident one is removed
# Of a class in all windows of an image, with the highest scores: what a model hardly believes is
# found in every window, and an object is found in four of them, at most, as tiles mostly overlap.
MAX_DETECTIONS = 10_000
# Of a window's side: a mask that ends so close to an inner edge may be cut by it, because the
# model's masks are coarser than the image.
EDGE = 1 / 32


_InWindow = tuple[Window, Detection]


@dataclass(frozen=True)
class _Piece:
    """A detection in one window, in pixels of the image."""

    found: Detection
    window: Window
    shape: Rle  # by which it is compared
    area: float
    box: BoxXywh  # around the shape
    is_cut: bool  # perhaps


@dataclass(frozen=True)
class _Object:
    """Pieces of one object, by their places among all of the class: the most confident first."""

    pieces: dict[int, _Piece]
    windows: frozenset[Window]


def stitched(
    in_windows: Iterable[tuple[Window, Sequence[Detection]]], image: Image, *, overlap: int
) -> list[Detection]:
    """The detections in an image, class by class, those with the highest score first.

    Args:
        in_windows: windows of the image and the detections in each, in pixels of the window.
            Detections of one window are never joined, nor taken for duplicates.
        image: that the windows are of.
        overlap: of neighboring windows, at least; pixels.
    """
    by_class: dict[int, list[_InWindow]] = defaultdict(list)
    for window, detections in in_windows:
        for found in detections:
            own = by_class[found.category_id]
            own.append((window, found))
            if len(own) >= 2 * MAX_DETECTIONS:
                own[:] = _most_confident(own)
    rim = (overlap - 1) // 2
    stitched_classes = (_stitched_class(own, image, rim) for own in by_class.values())
    return [found for in_class in stitched_classes for found in in_class]


def _most_confident(own: Sequence[_InWindow]) -> list[_InWindow]:
    return sorted(own, key=lambda item: -item[1].score)[:MAX_DETECTIONS]


def _piece(found: Detection, window: Window, image: Image) -> _Piece:
    rle = placed(found.rle, window, height=image.height, width=image.width)
    x, y, w, h = found.bbox_xywh
    moved = replace(found, rle=rle, bbox_xywh=(x + window.left, y + window.top, w, h))
    shape = _shape(moved, image)
    area, box = rle_area(shape), rle_bbox_xywh(shape)
    is_cut = bool(area) and not _is_inside(box, window, image)
    return _Piece(moved, window, shape, area, box, is_cut)


def _shape(found: Detection, image: Image) -> Rle:
    """By what a detection in an image is compared: its mask, or its box where that is empty."""
    if rle_area(found.rle):
        return found.rle
    return box_to_rle(found.bbox_xywh, image.height, image.width)


def _edge_distances(box: BoxXywh, window: Window, image: Image) -> Iterator[tuple[float, float]]:
    """How far a box in a window begins and ends from each edge that is in the image, in pixels."""
    x, y, w, h = box
    if window.left > 0:
        yield x - window.left, x + w - window.left
    if window.top > 0:
        yield y - window.top, y + h - window.top
    if window.right < image.width:
        yield window.right - x - w, window.right - x
    if window.bottom < image.height:
        yield window.bottom - y - h, window.bottom - y


def _margin(window: Window) -> float:
    return EDGE * max(window.width, window.height)


def _is_inside(box: BoxXywh, window: Window, image: Image) -> bool:
    """Whether a box is in a window, and away from those of its edges that are in the image."""
    margin = _margin(window)
    return all(begin >= margin for begin, _ in _edge_distances(box, window, image))


def _is_rim(piece: _Piece, image: Image, rim: int) -> bool:
    """Whether a piece is cut by an edge, and is all within `rim` pixels of the same edge."""
    margin = _margin(piece.window)
    distances = _edge_distances(piece.box, piece.window, image)
    return piece.is_cut and any(begin < margin and end <= rim for begin, end in distances)


def _stitched_class(own: Sequence[_InWindow], image: Image, rim: int) -> list[Detection]:
    pieces = (_piece(found, window, image) for window, found in _most_confident(own))
    ranked = [piece for piece in pieces if not _is_rim(piece, image, rim)]
    objects = _joined(ranked, _agreements(ranked))
    return list(_without_duplicates(objects, image))


def _agreements(pieces: Sequence[_Piece]) -> dict[int, dict[int, float]]:
    """For each piece the more confident ones with which it agrees, and how well."""
    by_window: dict[Window, list[int]] = defaultdict(list)
    for n, piece in enumerate(pieces):
        by_window[piece.window].append(n)
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for one, other, common in _overlaps(list(by_window)):
        # pycocotools compares boxes first, so that only masks that meet take time.
        first, second = by_window[one], by_window[other]
        ious = mask_utils.iou(
            [pieces[n].shape for n in first],
            [pieces[n].shape for n in second],
            [0] * len(second),
        )
        rows, columns = ious.nonzero()
        meeting = np.array(first)[rows].tolist(), np.array(second)[columns].tolist()
        # Of each piece once: in a crowd it meets many others.
        seen = {n: area_within(pieces[n].shape, common) for n in {*meeting[0], *meeting[1]}}
        for a, b, iou in zip(*meeting, ious[rows, columns].tolist(), strict=True):
            agreement = _agreement(pieces[a], pieces[b], seen[a] + seen[b], iou)
            if agreement >= MIN_AGREEMENT:
                found[max(a, b)][min(a, b)] = agreement
    return found


def _overlaps(windows: Sequence[Window]) -> Iterator[tuple[Window, Window, Window]]:
    """Pairs of windows that overlap, with the part of the image that is in both."""
    starts = np.array([(w.left, w.top) for w in windows])
    ends = np.array([(w.right, w.bottom) for w in windows])
    for n, one in enumerate(windows):
        start, end = np.maximum(starts[n], starts[n + 1 :]), np.minimum(ends[n], ends[n + 1 :])
        for m in np.flatnonzero((end > start).all(1)).tolist():
            (left, top), (width, height) = start[m].tolist(), (end[m] - start[m]).tolist()
            yield one, windows[n + 1 + m], Window(left, top, width, height)


def _agreement(one: _Piece, other: _Piece, seen: int, iou: float) -> float:
    """How alike two shapes are that meet, 0 to 1.

    Args:
        one: a piece.
        other: a piece of another window.
        seen: pixels of both, added, that are where both windows look.
        iou: of the whole shapes.
    """
    # All of the intersection is where both windows look.
    intersection = round(iou / (1 + iou) * (one.area + other.area))
    covered = [intersection / piece.area for piece in (one, other) if piece.is_cut]
    return max([intersection / (seen - intersection), *covered])


def _joined(
    pieces: Sequence[_Piece], agreements: Mapping[int, Mapping[int, float]]
) -> list[_Object]:
    """The objects that pieces are of, the most confident first; so are the pieces."""
    object_of: dict[int, _Object] = {}
    for n, piece in enumerate(pieces):
        joined, windows = {n: piece}, frozenset([piece.window])
        known = agreements.get(n, {})
        for other in sorted(known, key=lambda other: (-known[other], other)):
            one = object_of[other]
            if other not in joined and windows.isdisjoint(one.windows):
                joined, windows = joined | one.pieces, windows | one.windows
        together = _Object(dict(sorted(joined.items())), windows)
        object_of |= dict.fromkeys(joined, together)
    # In the order of the most confident piece of each.
    return list({id(one): one for one in object_of.values()}.values())


def _detection(one: _Object, image: Image) -> Detection:
    """An object as one detection in the image."""
    best, *others = (piece.found for piece in one.pieces.values())
    if not others:
        return best
    box = rle_bbox_xywh(mask_utils.merge([piece.shape for piece in one.pieces.values()]))
    for piece in one.pieces.values():
        if _is_inside(box, piece.window, image):
            return replace(piece.found, score=best.score)
    union = mask_utils.merge([best.rle, *(found.rle for found in others)])
    rle = segmentation_to_rle(union, image.height, image.width)
    hull = _hull([best.bbox_xywh, *(found.bbox_xywh for found in others)])
    return replace(best, rle=rle, bbox_xywh=hull)


def _hull(boxes: Sequence[BoxXywh]) -> BoxXywh:
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(x + w for x, _, w, _ in boxes), max(y + h for _, y, _, h in boxes)
    return left, top, right - left, bottom - top


def _without_duplicates(objects: Sequence[_Object], image: Image) -> Iterator[Detection]:
    """The objects as detections, without those that repeat a more confident one."""
    detections = [_detection(one, image) for one in objects]
    shapes = [_shape(found, image) for found in detections]
    areas = np.array([rle_area(shape) for shape in shapes])
    starts = np.array([rle_bbox_xywh(shape) for shape in shapes]).reshape(-1, 4)
    ends = starts[:, :2] + starts[:, 2:]
    removed = np.zeros(len(objects), bool)
    for n, (one, found) in enumerate(zip(objects, detections, strict=True)):
        if removed[n]:
            continue
        yield found
        # An IoU is at most the ratio of the areas.
        near = (areas[n] > 0) & (areas >= DUPLICATE_IOU * areas[n])
        near &= areas * DUPLICATE_IOU <= areas[n]
        near &= ((starts[:, :2] < ends[n]) & (ends > starts[n, :2])).all(1)
        near[: n + 1] = False
        places = [m for m in np.flatnonzero(near) if one.windows.isdisjoint(objects[m].windows)]
        if places:
            ious = mask_utils.iou([shapes[n]], [shapes[m] for m in places], [0] * len(places))[0]
            removed[np.array(places)[ious >= DUPLICATE_IOU]] = True
