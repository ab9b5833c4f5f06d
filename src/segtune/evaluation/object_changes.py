"""How the labels of one image differ between two datasets."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_utils
from scipy.optimize import linear_sum_assignment

from segtune.dataset.coco import Annotation, Image
from segtune.dataset.masks import Rle, segmentation_to_rle
from segtune.evaluation.arrays import Array
from segtune.evaluation.matching import MATCH_IOU

SAME_IOU = 0.99  # of two outlines that count as the same: rounding changes less


@dataclass(frozen=True)
class MatchedObject:
    """An object in both datasets, with its classes by name."""

    before: str
    after: str
    reshaped: bool  # another mask or box


@dataclass(frozen=True)
class MatchedLabels:
    """The labels of one image in two datasets."""

    matched: tuple[MatchedObject, ...]
    removed: tuple[str, ...]  # classes of the objects, by name
    added: tuple[str, ...]


@dataclass(frozen=True)
class _Object:
    label: Annotation
    name: str  # of the class
    shape: str  # what is drawn, as text


def match_labels(
    image: Image,
    before: Sequence[Annotation],
    after: Sequence[Annotation],
    *,
    names: tuple[Mapping[int, str], Mapping[int, str]],
) -> MatchedLabels:
    """Match the objects of an image in two datasets.

    Objects with the same shape match first. Of the others, pairs are chosen that have the
    highest sum of IoUs (of masks; of boxes, where one has no mask), those of one class first;
    a pair with an IoU below 0.5 does not match.

    Args:
        image: that both have.
        before: its objects in one dataset.
        after: its objects in the other.
        names: class id -> name, of both datasets.
    """
    old, new = (
        [_Object(a, known[a.category_id], _shape(a)) for a in labels]
        for labels, known in zip((before, after), names, strict=True)
    )
    matched: list[MatchedObject] = []
    for key in (lambda o: (o.name, o.shape), lambda o: o.shape):
        equal, old, new = _take_equal(old, new, key)
        matched += [MatchedObject(b.name, a.name, reshaped=False) for b, a in equal]
    overlaps = _overlaps(image, old, new)
    chosen = _assigned(overlaps, old, new)
    matched += [
        MatchedObject(old[row].name, new[column].name, _reshaped(old[row], new[column], iou))
        for row, column in chosen
        for iou in [overlaps[row, column]]
    ]
    rows, columns = ({pair[side] for pair in chosen} for side in (0, 1))
    return MatchedLabels(
        matched=tuple(matched),
        removed=tuple(o.name for place, o in enumerate(old) if place not in rows),
        added=tuple(o.name for place, o in enumerate(new) if place not in columns),
    )


def _shape(a: Annotation) -> str:
    return json.dumps([a.bbox_xywh, a.segmentation, a.iscrowd], sort_keys=True)


def _take_equal(
    before: Iterable[_Object], after: Iterable[_Object], key: Callable[[_Object], object]
) -> tuple[list[tuple[_Object, _Object]], list[_Object], list[_Object]]:
    """The pairs with equal keys, and what remains of both."""
    waiting: dict[object, list[_Object]] = {}
    for o in after:
        waiting.setdefault(key(o), []).append(o)
    pairs, rest = [], []
    for o in before:
        candidates = waiting.get(key(o))
        if candidates:
            pairs.append((o, candidates.pop(0)))
        else:
            rest.append(o)
    return pairs, rest, [o for found in waiting.values() for o in found]


def _overlaps(image: Image, before: Sequence[_Object], after: Sequence[_Object]) -> Array:
    """(before, after) IoU: of masks, or of boxes where one has no mask."""
    if not before or not after:
        return np.zeros((len(before), len(after)))
    boxes = [[list(o.label.bbox_xywh) for o in side] for side in (before, after)]
    ious: Array = np.asarray(mask_utils.iou(*boxes, [0] * len(after)))
    rows, columns = (
        [place for place, o in enumerate(side) if o.label.segmentation] for side in (before, after)
    )
    if rows and columns:
        old, new = (
            [_mask(before[n], image) for n in rows],
            [_mask(after[n], image) for n in columns],
        )
        ious[np.ix_(rows, columns)] = mask_utils.iou(old, new, [0] * len(new))
    return ious


def _mask(o: _Object, image: Image) -> Rle:
    return segmentation_to_rle(o.label.segmentation or [], image.height, image.width)


def _assigned(
    overlaps: Array, before: Sequence[_Object], after: Sequence[_Object]
) -> list[tuple[int, int]]:
    """The pairs that match, by position."""
    same_class = np.reshape([b.name == a.name for b in before for a in after], overlaps.shape)
    worth = np.where(overlaps >= MATCH_IOU, overlaps + same_class, 0.0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if worth[r, c] > 0]


def _reshaped(before: _Object, after: _Object, iou: float) -> bool:
    kinds = [(bool(o.label.segmentation), o.label.iscrowd) for o in (before, after)]
    return kinds[0] != kinds[1] or bool(iou < SAME_IOU)
