"""Checks of what the records of a dataset say: ids, references, numbers, boxes."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.findings import Found, Place, image_place, is_finite, object_place

ROUNDING = 1e-3  # pixels by which a box may extend beyond its image


def structure_findings(splits: Sequence[Split]) -> Iterator[Found]:
    """What later stages cannot work with, in the training, valid and test splits."""
    for split in splits:
        yield from _duplicate_files(split)
        yield from _split_findings(split, splits[0])
        yield from _id_findings(split)
        classes = {category.id for category in split.categories}
        for image in split.images:
            for a in split.annotations[image.id]:
                for rule in _broken_by(a, image, classes):
                    yield rule, object_place(split, image, a)


def _split_findings(split: Split, train: Split) -> Iterator[Found]:
    place = Place(split.name)
    if not split.images:
        yield "structure-split-empty", place
    elif not split.objects:
        yield "structure-no-objects", place
    if split.categories != train.categories:
        yield "structure-classes-differ", place


def _id_findings(split: Split) -> Iterator[Found]:
    ids = {
        "image": [image.id for image in split.images],
        "object": [a.id for a in split.objects],
        "class": [category.id for category in split.categories],
    }
    for kind, numbers in ids.items():
        for number, count in Counter(numbers).items():
            place = Place(f"{split.name}: {kind} {number}")
            if number < 1:
                yield "structure-id-invalid", place
            if count > 1:
                yield "structure-id-duplicate", place


def _duplicate_files(split: Split) -> Iterator[Found]:
    # Files in two splits are copies, except in valid and test where one is used for both.
    seen: set[str] = set()
    for image in split.images:
        if image.file_name in seen:
            yield "structure-file-duplicate", image_place(split, image)
        seen.add(image.file_name)


def _broken_by(a: Annotation, image: Image, classes: set[int]) -> Iterator[str]:
    """The rules that an object breaks."""
    x, y, w, h = a.bbox_xywh
    if not is_finite(a.bbox_xywh):
        yield "structure-box-not-finite"
    elif w <= 0 or h <= 0:
        yield "structure-box-empty"
    elif min(x, y) < -ROUNDING or x + w > image.width + ROUNDING or y + h > image.height + ROUNDING:
        yield "structure-box-outside"
    if not (math.isfinite(a.area) and a.area >= 0):
        yield "structure-area-invalid"
    if a.iscrowd not in (0, 1):
        yield "structure-iscrowd-invalid"
    if a.category_id not in classes:
        yield "structure-class-unknown"
