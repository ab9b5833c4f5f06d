"""CreateML: one JSON for each split; `x, y` are the center of a box, in pixels."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError, shown
from segtune.core.foreign import reason
from segtune.exports.annotations import parse_number
from segtune.exports.files import file_named, image_files
from segtune.exports.parsing import read_json
from segtune.exports.split_source import (
    EXPORT_AGAIN,
    EXPORT_IMAGES,
    Place,
    Reader,
    SourceAnnotation,
    SplitSource,
    categories_from_names,
    category_name,
    images_from_files,
)

ANNOTATIONS = "_annotations.createml.json"


def find(root: Path, folders: Mapping[str, Path]) -> dict[str, Reader]:
    """The readers of the splits that have this format."""
    paths = {split: file_named(folder, ANNOTATIONS) for split, folder in folders.items()}
    return {split: partial(_read, path) for split, path in paths.items() if path}


def _read(path: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; its images are beside the JSON."""
    images = images_from_files(image_files(path.parent))
    image_ids = {image.file_name: image.id for image in images}
    entries = read_json(path)
    try:
        names = sorted({_label(o, path) for entry in entries for o in entry["annotations"]})
        ids = {name: number for number, name in enumerate(names)}
        annotations = tuple(_annotations(entries, ids, image_ids, path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"cannot read the CreateML JSON ({type(error).__name__}: {reason(error)})",
            file=path,
            fix=EXPORT_AGAIN,
        ) from None
    return SplitSource(path, categories_from_names(names, path), images, annotations)


def _annotations(
    entries: list[dict[str, Any]], ids: Mapping[str, int], image_ids: Mapping[str, int], path: Path
) -> Iterator[SourceAnnotation]:
    seen: set[str] = set()
    for entry in entries:
        image = entry["image"]
        if image not in image_ids or image in seen:
            problem = "is a duplicate" if image in seen else "is not in the same folder"
            raise Place(path, f"image {shown(image)}").error(f"the image {problem}", EXPORT_IMAGES)
        seen.add(image)
        for number, found in enumerate(entry["annotations"]):
            place = Place(path, f"image {shown(image)}, annotation {number}")
            yield SourceAnnotation(
                image_id=image_ids[image],
                category_id=ids[_label(found, path)],
                place=place,
                bbox=_box(found["coordinates"], place),
            )


def _label(found: Mapping[str, Any], path: Path) -> str:
    label = found["label"]
    is_number = isinstance(label, int) and not isinstance(label, bool)
    return category_name(str(label) if is_number else label, Place(path, f"label {shown(label)}"))


def _box(values: dict[str, Any], place: Place) -> list[float]:
    cx, cy, w, h = (values[key] for key in ("x", "y", "width", "height"))
    if not all(isinstance(value, int | float) for value in (cx, cy, w, h)):
        raise place.error("coordinates that are not numbers")
    cx, cy, w, h = (parse_number(value, place) for value in (cx, cy, w, h))
    return [cx - w / 2, cy - h / 2, w, h]
