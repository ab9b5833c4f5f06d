"""Checks of a converted dataset, and their report.

Errors stop later stages from working; warnings cast doubt on their results.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from segtune.core.foreign import file_problem
from segtune.core.typed_json import read_typed
from segtune.dataset.coco import Annotation, Image, Manifest, Split
from segtune.dataset.masks import Segmentation, require_usable, rle_area, segmentation_to_rle

MAX_EXAMPLES = 1000  # in a report, per problem
ROUNDING = 1e-3  # pixels by which a box may extend beyond its image
CONVERT_AGAIN = "run segtune.convert again"


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, perhaps in many places."""

    problem: str
    fix: str
    count: int
    examples: tuple[str, ...]  # the first places


@dataclass(frozen=True)
class SplitSummary:
    """How much a split holds."""

    images: int
    images_without_objects: int
    objects: int
    box_only_objects: int
    per_class: dict[str, int]  # objects


@dataclass(frozen=True)
class DatasetReport:
    """What was found in a dataset."""

    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    splits: dict[str, SplitSummary]


class _Finding(NamedTuple):
    problem: str
    fix: str
    place: str


def check_dataset(splits: Sequence[Split], manifest: Manifest, *, queries: int) -> DatasetReport:
    """Check the training, valid and test splits, in this order.

    Args:
        splits: as they were read.
        manifest: of their images.
        queries: of the model, each of which detects one object of a prompt.
    """
    return DatasetReport(
        errors=_grouped(_errors(splits, manifest)),
        warnings=_grouped(_warnings(splits, manifest, queries)),
        splits={split.name: _summary(split) for split in splits},
    )


def read_report(path: Path) -> DatasetReport:
    """Read the report that `segtune.validate` wrote.

    Raises:
        DatasetError: when the file is missing or has another format.
    """
    return read_typed(path, DatasetReport, fix="Run segtune.validate again")


def _grouped(findings: Iterator[_Finding]) -> tuple[Problem, ...]:
    places: dict[tuple[str, str], list[str]] = {}
    for problem, fix, place in findings:
        places.setdefault((problem, fix), []).append(place)
    return tuple(
        Problem(problem, fix, count=len(found), examples=tuple(found[:MAX_EXAMPLES]))
        for (problem, fix), found in places.items()
    )


def _errors(splits: Sequence[Split], manifest: Manifest) -> Iterator[_Finding]:
    train = splits[0]
    sizes = {entry.path: entry.size for entry in manifest.images}
    for split in splits:
        if not split.images:
            yield _Finding("split without images", "add some, or move some into it", split.name)
        if split.categories != train.categories:
            yield _Finding("split whose classes differ from train's", CONVERT_AGAIN, split.name)
        yield from _id_errors(split)
        classes = {category.id for category in split.categories}
        for image in split.images:
            yield from _image_errors(split, image, sizes)
            for annotation in split.annotations[image.id]:
                yield from _object_errors(split, image, annotation, classes)
    if not train.objects:
        yield _Finding("training split without objects", "label some objects", train.name)
    yield from _prompt_errors(train)


def _prompt_errors(split: Split) -> Iterator[_Finding]:
    prompts = Counter(category.prompt.strip().casefold() for category in split.categories)
    for prompt, count in prompts.items():
        if not prompt:
            yield _Finding("class without a prompt", "set convert.prompts", split.name)
        elif count > 1:
            yield _Finding("prompt of more than one class", "set convert.prompts", repr(prompt))


def _id_errors(split: Split) -> Iterator[_Finding]:
    ids = {
        "image": [image.id for image in split.images],
        "object": [a.id for a in split.objects],
        "class": [category.id for category in split.categories],
    }
    for kind, numbers in ids.items():
        for number, count in Counter(numbers).items():
            if count > 1 or number < 1:
                place = f"{split.name}: {kind} {number}"
                yield _Finding("id that is a duplicate or below 1", CONVERT_AGAIN, place)


def _image_errors(split: Split, image: Image, sizes: dict[str, int]) -> Iterator[_Finding]:
    path = split.image_path(image)
    if file_problem(path):
        yield _Finding("missing image", "restore it, or convert again", str(path))
    elif sizes.get(image.file_name) != path.stat().st_size:
        yield _Finding("image that has changed since conversion", CONVERT_AGAIN, str(path))


def _object_errors(
    split: Split, image: Image, a: Annotation, classes: set[int]
) -> Iterator[_Finding]:
    place = f"{split.name}: object {a.id} in {image.file_name}"
    if not _is_inside(a, image):
        yield _Finding("empty box, or box beyond its image", CONVERT_AGAIN, place)
    if a.category_id not in classes:
        yield _Finding("object of an unknown class", CONVERT_AGAIN, place)
    if a.iscrowd not in (0, 1) or not math.isfinite(a.area):
        yield _Finding("object whose area or iscrowd is not valid", CONVERT_AGAIN, place)
    if a.segmentation and not _is_readable(a.segmentation, image):
        problem = "mask that is empty, differs in size from its image or cannot be read"
        yield _Finding(problem, CONVERT_AGAIN, place)


def _is_inside(a: Annotation, image: Image) -> bool:
    x, y, w, h = a.bbox_xywh
    right, bottom = image.width + ROUNDING, image.height + ROUNDING
    # True only where every comparison holds, so that NaN is never inside.
    return min(x, y) >= -ROUNDING and x + w <= right and y + h <= bottom and w > 0 and h > 0


def _is_readable(segmentation: Segmentation, image: Image) -> bool:
    height, width = image.height, image.width
    try:
        require_usable(segmentation, height, width)
        return rle_area(segmentation_to_rle(segmentation, height, width)) > 0
    except ValueError:
        return False


def _warnings(splits: Sequence[Split], manifest: Manifest, queries: int) -> Iterator[_Finding]:
    sha256 = {entry.path: entry.sha256 for entry in manifest.images}
    images = {
        split.name: {sha256.get(image.file_name): image.file_name for image in split.images}
        for split in splits
    }
    for one, other in combinations(images, 2):
        for content, name in images[one].items():
            if content and content in images[other]:
                yield _Finding(
                    f"image in both {one} and {other}, which makes scores meaningless",
                    "remove it from one of them",
                    f"{name} = {images[other][content]}",
                )
    for split in splits:
        present = {a.category_id for a in split.objects}
        for category in split.categories:
            if category.id not in present:
                problem = f"class without objects in {split.name}"
                yield _Finding(problem, "label some in that split", category.name)
        yield from _crowded_images(split, queries)


def _crowded_images(split: Split, queries: int) -> Iterator[_Finding]:
    names = {category.id: category.name for category in split.categories}
    for image in split.images:
        counts = Counter(a.category_id for a in split.annotations[image.id] if not a.iscrowd)
        for number, count in counts.items():
            if count > queries:
                yield _Finding(
                    f"image with more objects of a class than the {queries} that the model detects",
                    "cut it into tiles",
                    f"{split.name}: {image.file_name}, {count} of {names.get(number, number)}",
                )


def _summary(split: Split) -> SplitSummary:
    names = {category.id: category.name for category in split.categories}
    per_class = Counter(a.category_id for a in split.objects)
    return SplitSummary(
        images=len(split.images),
        images_without_objects=sum(not found for found in split.annotations.values()),
        objects=len(split.objects),
        box_only_objects=sum(not a.segmentation for a in split.objects),
        per_class={name: per_class[number] for number, name in names.items()},
    )
