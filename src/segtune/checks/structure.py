"""Checks of what the records of a dataset say: ids, references, numbers, boxes."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from segtune.core.foreign import file_problem
from segtune.dataset.coco import Annotation, Image, Manifest, Split
from segtune.dataset.findings import Found, Place, image_place, is_finite, object_place

ROUNDING = 1e-3  # pixels by which a box may extend beyond its image


def structure_findings(splits: Sequence[Split]) -> Iterator[Found]:
    """What later stages cannot work with, in the training, valid and test splits."""
    yield from _duplicate_files(splits)
    for split in splits:
        yield from _split_findings(split, splits[0])
        yield from _id_findings(split)
        classes = {category.id for category in split.categories}
        for image in split.images:
            for a in split.annotations[image.id]:
                for rule in _broken_by(a, image, classes):
                    yield rule, object_place(split, image, a)


def file_findings(splits: Sequence[Split], manifest: Manifest) -> Iterator[Found]:
    """Images that are missing or no longer those that were converted."""
    sizes = {entry.path: entry.size for entry in manifest.images}
    for split in splits:
        for image in split.images:
            path = split.image_path(image)
            if file_problem(path):
                yield "image-missing", image_place(split, image)
            elif image.file_name not in sizes:
                yield "image-unlisted", image_place(split, image)
            elif sizes[image.file_name] != path.stat().st_size:
                yield "image-changed", image_place(split, image)


def identical_images(splits: Sequence[Split], manifest: Manifest) -> Iterator[Found]:
    """Images of valid and test with the same bytes as one of an earlier split."""
    sha256 = {entry.path: entry.sha256 for entry in manifest.images}
    seen: dict[str, tuple[Split, Image]] = {}
    for split in splits:
        for image in split.images:
            content = sha256.get(image.file_name, image.file_name)
            other, first = seen.setdefault(content, (split, image))
            if other is not split and first.file_name != image.file_name:
                text = f"{split.name}: {image.file_name} = {other.name}: {first.file_name}"
                yield (
                    "copy-identical",
                    Place(
                        text=text,
                        split=split.name,
                        image=image.file_name,
                        other_split=other.name,
                        other_image=first.file_name,
                    ),
                )


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


def _duplicate_files(splits: Sequence[Split]) -> Iterator[Found]:
    seen: dict[str, str] = {}
    for split in splits:
        for image in split.images:
            if first := seen.get(image.file_name):
                place = image_place(split, image, f"also image in {first}")
                yield "structure-file-duplicate", place
            seen.setdefault(image.file_name, split.name)


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
