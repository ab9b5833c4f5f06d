"""What every format's reader returns: one split of an export as typed records.

Readers take the numbers of boxes and masks as they stand; `annotations` checks them all.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError, shown
from segtune.dataset.images import opened_image
from segtune.dataset.masks import MAX_PIXELS

EXPORT_AGAIN = "Export the dataset again"
EXPORT_IMAGES = "Export the dataset again, with its images"
MAX_NAME = 500  # characters, of a class or an image
MAX_INTEGER = 2**63 - 1
UNUSABLE = {"Cc", "Cs", "Zl", "Zp"}  # control characters, surrogates, and separators of lines


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record of an export was found."""

    file: Path
    record: str

    def error(self, problem: str, fix: str = EXPORT_AGAIN) -> ExportError:
        """The error for a problem with the record."""
        return ExportError(problem, file=self.file, record=self.record, fix=fix)


@dataclass(frozen=True, slots=True)
class SourceCategory:
    """A category as the export lists it."""

    id: int
    name: str
    supercategory: str = ""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image as the export lists it."""

    id: int
    file_name: str  # in the export's table
    path: Path
    width: int  # pixels, as recorded
    height: int  # pixels, as recorded
    original: str = ""  # the image that this one was augmented from, where that is known
    fields: Mapping[str, Any] = field(default_factory=dict)  # the record, for prompt templates


@dataclass(frozen=True, slots=True)
class SourceAnnotation:
    """An annotation as the export has it, with values that nothing has checked yet."""

    image_id: int
    category_id: int
    place: Place
    bbox: Any  # x, y, w, h in pixels
    segmentation: Any = None  # polygons or RLE
    iscrowd: Any = 0


@dataclass(frozen=True)
class SplitSource:
    """One split of an export; annotations refer to images and categories that exist."""

    path: Path  # the file, or the folder of files, that holds the annotations
    categories: tuple[SourceCategory, ...]
    images: tuple[SourceImage, ...]
    annotations: tuple[SourceAnnotation, ...]


Reader = Callable[[ConvertSettings], SplitSource]


def categories_from_names(names: Iterable[str], path: Path) -> tuple[SourceCategory, ...]:
    """Categories with ids from 0.

    Raises:
        ExportError: when a name is empty.
    """
    return tuple(
        SourceCategory(number, category_name(name, Place(path, f"category {number}")))
        for number, name in enumerate(names)
    )


def category_name(name: object, place: Place) -> str:
    """The name of a category.

    Raises:
        ExportError: when it is not text, empty, too long, or has characters that nobody sees.
    """
    if not isinstance(name, str) or not name.strip():
        raise place.error("the category has no name", "Name the class in Roboflow")
    if problem := name_problem(name):
        raise place.error(f"the category's name {shown(name)} {problem}", "Rename the class")
    return name


def name_problem(name: str) -> str | None:
    """Why a name cannot be used; None where it can be."""
    if len(name) > MAX_NAME:
        return f"is longer than {MAX_NAME} characters"
    return "has control characters" if has_control_characters(name) else None


def has_control_characters(name: str) -> bool:
    """Whether a name would do something to a terminal, or cannot be written at all."""
    return any(unicodedata.category(character) in UNUSABLE for character in name)


def integer(value: object, what: str, place: Place) -> int:
    """An integer that fits 64 bits.

    Raises:
        ExportError: for anything else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_INTEGER:
        raise place.error(f"{what} {shown(value)} is not an integer")
    return value


def image_size(width: float, height: float, place: Place) -> tuple[int, int]:
    """(width, height) in pixels, as a record states them.

    Raises:
        ExportError: when they are not integers above 0, or too large for an image.
    """
    if any(side < 1 or side != int(side) for side in (width, height)) or (
        width * height > MAX_PIXELS
    ):
        raise place.error(f"invalid size of {width:g} x {height:g} pixels")
    return int(width), int(height)


def require_size(stated: tuple[float, float], image: SourceImage, place: Place) -> None:
    """Compare the (width, height) that a record states with the image's header.

    Raises:
        ExportError: when they differ, since the record's pixels are then of another image.
    """
    if stated != (image.width, image.height):
        raise place.error(
            f"{image.file_name} has {image.width} x {image.height} pixels, but its record says "
            f"{stated[0]:g} x {stated[1]:g}",
            EXPORT_IMAGES,
        )


def image_name(name: str, file: Path) -> str:
    """The name of an image.

    Raises:
        ExportError: when it has characters that cannot be shown or written.
    """
    if problem := name_problem(name):
        raise ExportError(
            f"the image's name {shown(name)} {problem}", file=file, fix="Rename the image"
        )
    return name


def images_from_files(paths: Iterable[Path]) -> tuple[SourceImage, ...]:
    """Images with ids from 0 and the sizes that their headers give.

    Raises:
        ExportError: when one cannot be read.
    """
    images = []
    for number, path in enumerate(paths):
        with opened_image(path, ExportError, EXPORT_AGAIN) as opened:
            width, height = opened.size
        images.append(SourceImage(number, image_name(path.name, path), path, width, height))
    return tuple(images)
