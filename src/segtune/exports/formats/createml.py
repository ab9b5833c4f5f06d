"""CreateML: one JSON for each split; `x, y` are the center of a box, in pixels."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError
from segtune.exports.split_source import (
    EXPORT_AGAIN,
    EXPORT_IMAGES,
    Place,
    Reader,
    SourceAnnotation,
    SplitSource,
    categories_from_names,
    image_files,
    images_from_files,
    read_text,
)

ANNOTATIONS = "_annotations.createml.json"


def find(root: Path, folders: Mapping[str, Path]) -> dict[str, Reader]:
    """The readers of the splits that have this format."""
    paths = {split: folder / ANNOTATIONS for split, folder in folders.items()}
    return {split: partial(_read, path) for split, path in paths.items() if path.is_file()}


def _read(path: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; its images are beside the JSON."""
    images = images_from_files(image_files(path.parent))
    image_ids = {image.file_name: image.id for image in images}
    try:
        entries = json.loads(read_text(path))
        names = sorted({str(o["label"]) for entry in entries for o in entry["annotations"]})
        annotations = tuple(_annotations(entries, names, image_ids, path))
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"cannot read the CreateML JSON ({error!r})", file=path, fix=EXPORT_AGAIN
        ) from None
    return SplitSource(path, categories_from_names(names, path), images, annotations)


def _annotations(
    entries: list[dict[str, Any]], names: list[str], image_ids: Mapping[str, int], path: Path
) -> Iterator[SourceAnnotation]:
    seen: set[str] = set()
    for entry in entries:
        image = entry["image"]
        if image not in image_ids or image in seen:
            problem = "is a duplicate" if image in seen else "is not in the same folder"
            raise Place(path, f"image {image!r}").error(f"the image {problem}", EXPORT_IMAGES)
        seen.add(image)
        for number, found in enumerate(entry["annotations"]):
            place = Place(path, f"image {image!r}, annotation {number}")
            yield SourceAnnotation(
                image_id=image_ids[image],
                category_id=names.index(str(found["label"])),
                place=place,
                bbox=_box(found["coordinates"], place),
            )


def _box(values: dict[str, Any], place: Place) -> list[float]:
    cx, cy, w, h = (values[key] for key in ("x", "y", "width", "height"))
    if not all(isinstance(value, int | float) for value in (cx, cy, w, h)):
        raise place.error("coordinates that are not numbers")
    return [cx - w / 2, cy - h / 2, w, h]
