"""What every format's reader returns: one split of an export as typed records.

Readers take the numbers of boxes and masks as they stand; `annotations` checks them all.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError
from segtune.dataset.images import is_image_name, opened_image

EXPORT_AGAIN = "Export the dataset again"
EXPORT_IMAGES = "Export the dataset again, with its images"


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
        ExportError: when it is not text, or empty.
    """
    if not isinstance(name, str) or not name.strip():
        raise place.error("the category has no name", "Name the class in Roboflow")
    return name


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, by name.

    Raises:
        ExportError: when two differ only in their suffix: labels are matched by the stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_image_name(path):
            twin = found.setdefault(path.stem, path)
            if twin is not path:
                raise ExportError(
                    f"{twin.name} and {path.name} differ only in their suffix",
                    file=folder,
                    fix="Rename or remove one of them",
                )
    return list(found.values())


def other_jsons(folder: Path) -> list[Path]:
    """The JSON files of a folder, without those named as Roboflow names a split's annotations."""
    return [p for p in sorted(folder.glob("*.json")) if not p.name.startswith(("._", "_anno"))]


def images_from_files(paths: Iterable[Path]) -> tuple[SourceImage, ...]:
    """Images with ids from 0 and the sizes that their headers give.

    Raises:
        ExportError: when one cannot be read.
    """
    images = []
    for number, path in enumerate(paths):
        with opened_image(path, ExportError, EXPORT_AGAIN) as opened:
            width, height = opened.size
        images.append(SourceImage(number, path.name, path, width, height))
    return tuple(images)


def read_text(path: Path) -> str:
    """A file of labels as text.

    Raises:
        ExportError: when it cannot be read, or is not text.
    """
    try:
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read the text ({error})", file=path, fix=EXPORT_AGAIN) from None


def mentions(path: Path, *words: bytes) -> bool:
    """Whether a file contains one of some words, without reading it into memory."""
    overlap = max(map(len, words)) - 1
    with path.open("rb") as file:
        tail = b""
        while block := file.read(2**20):
            text = tail + block
            if any(word in text for word in words):
                return True
            tail = text[-overlap:]
    return False
