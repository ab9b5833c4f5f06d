"""What validation found in a dataset: the report that the gate and the page read."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from segtune.core.typed_json import read_typed
from segtune.core.validate_settings import Severity
from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.masks import BoxXywh

MAX_OBJECTS = 100  # of a place


@dataclass(frozen=True)
class Place:
    """One example of what breaks a rule."""

    text: str  # names the record, on one line
    split: str = ""  # where there is an image to draw
    image: str = ""  # its file_name
    object_ids: tuple[int, ...] = ()  # of the annotations in question
    other_split: str = ""  # of the second image of a pair
    other_image: str = ""
    other_object_ids: tuple[int, ...] = ()


Found = tuple[str, Place]  # the id of a rule, and what breaks it


@dataclass(frozen=True)
class Finding:
    """Everything that breaks one rule."""

    rule: str
    severity: Severity
    title: str
    fix: str
    count: int  # places
    examples: tuple[Place, ...]  # the first of them


@dataclass(frozen=True)
class Override:
    """A severity that the settings changed."""

    rule: str
    default: Severity
    severity: Severity
    count: int  # places that break the rule


@dataclass(frozen=True)
class SplitSummary:
    """How much a split holds."""

    images: int
    images_without_objects: int
    objects: int
    box_only_objects: int
    per_class: dict[str, int]  # objects


@dataclass(frozen=True)
class Histogram:
    """How often values of each range occur, by split."""

    title: str
    ranges: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class DatasetReport:
    """What was found in a dataset; the worst findings first."""

    fingerprint: str  # of the dataset
    findings: tuple[Finding, ...]
    overridden: tuple[Override, ...]
    splits: dict[str, SplitSummary]
    histograms: tuple[Histogram, ...]

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of a severity."""
        return [finding for finding in self.findings if finding.severity == severity]


def read_report(path: Path) -> DatasetReport:
    """Read the report that `segtune.validate` wrote.

    Raises:
        DatasetError: when the file is missing or has another format.
    """
    return read_typed(path, DatasetReport, fix="Run segtune.validate again")


def is_finite(box_xywh: BoxXywh) -> bool:
    """Whether all numbers of a box are."""
    return all(map(math.isfinite, box_xywh))


def image_place(
    split: Split, image: Image, text: str = "", objects: Iterable[Annotation] = ()
) -> Place:
    """An image of a split, and objects in it, as an example."""
    return Place(
        text=f"{split.name}: {image.file_name}{f', {text}' if text else ''}",
        split=split.name,
        image=image.file_name,
        object_ids=tuple(a.id for a in islice(objects, MAX_OBJECTS)),
    )


def object_place(
    split: Split, image: Image, a: Annotation, text: str = "", others: Iterable[Annotation] = ()
) -> Place:
    """One object as an example, perhaps with others that it is shown with."""
    named = f"object {a.id} of {_class_name(split, a.category_id)}"
    return image_place(split, image, f"{named}: {text}" if text else named, [a, *others])


def with_images(split: Split) -> Iterator[tuple[Image, Annotation]]:
    """Every object of a split with its image."""
    for image in split.images:
        for a in split.annotations[image.id]:
            yield image, a


def _class_name(split: Split, number: int) -> str:
    names = (category.name for category in split.categories if category.id == number)
    return next(names, f"the unknown class {number}")
