"""What every reader of a format gives: one split as COCO's three tables, and its images.

An annotation may say itself where it was found: `place`, a file and a record in it. Readers
take numbers as they stand; `objects` checks them all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from segtune.core.errors import ExportError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True)
class SplitSource:
    """One split of an export, as it lies on the disk."""

    annotations: Path  # the file, or the folder of files, that holds them
    values: dict[str, Any]  # what it holds: images, annotations, categories
    images: dict[str, Path]  # file name in the table -> image


def build_split(
    annotations: Path,
    image_paths: Iterable[Path],
    names: Iterable[str],
    objects: Iterable[dict[str, Any]],
) -> SplitSource:
    """A split out of a format without tables of its own.

    Args:
        annotations: what to name in messages.
        image_paths: all images of the split; their headers give the sizes.
        names: of the classes, in the order of their ids from 0.
        objects: COCO annotations that say `image` (its name) instead of `image_id`.
    """
    paths = {path.name: path for path in image_paths}
    sizes = {name: image_size(path) for name, path in paths.items()}
    ids = {name: number for number, name in enumerate(paths)}
    images = [
        {"id": ids[name], "file_name": name, "width": width, "height": height}
        for name, (width, height) in sizes.items()
    ]
    records = []
    for number, found in enumerate(objects):
        image = found.pop("image")
        records.append({"id": number, "image_id": ids[image], **found})
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    values = {"images": images, "annotations": records, "categories": categories}
    return SplitSource(annotations, values, paths)


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, by name.

    Raises:
        ExportError: when two differ in their suffix alone: labels go by the stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._"):
            twin = found.setdefault(path.stem, path)
            if twin is not path:
                raise ExportError(
                    f"{twin.name} and {path.name} differ in their suffix alone", file=folder
                )
    return list(found.values())


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the header.

    Raises:
        ExportError: when it is no image.
    """
    try:
        with PilImage.open(path) as image:
            return image.size
    except (OSError, ValueError, UnidentifiedImageError, PilImage.DecompressionBombError) as error:
        raise ExportError(
            f"the image cannot be read ({error})", file=path, fix="Export it again"
        ) from None


def read_text(path: Path) -> str:
    """A file of labels as text.

    Raises:
        ExportError: when it cannot be read, or is no text.
    """
    try:
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ExportError(
            f"no readable text ({error})", file=path, fix="Export the dataset again"
        ) from None
