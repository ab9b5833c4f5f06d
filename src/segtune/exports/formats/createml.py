"""CreateML: one JSON for each split; `x, y` are the center of a box, in pixels."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError
from segtune.exports.split_source import SplitSource, build_split, images_in, read_text

ANNOTATIONS = "_annotations.createml.json"


def present(root: Path, folder: Path) -> bool:
    """Whether a split's folder holds this format."""
    return (folder / ANNOTATIONS).is_file()


def read(root: Path, folder: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; its images lie beside the JSON."""
    path = folder / ANNOTATIONS
    images = images_in(folder)
    try:
        entries = json.loads(read_text(path))
        labels = {str(o["label"]) for entry in entries for o in entry["annotations"]}
        names = sorted(labels)
        objects = list(_objects(entries, names, {p.name for p in images}, path))
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"no CreateML JSON ({error!r})", file=path, fix="Export the dataset again"
        ) from None
    return build_split(path, images, names, objects)


def _objects(
    entries: list[dict[str, Any]], names: list[str], images: set[str], path: Path
) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for entry in entries:
        image = entry["image"]
        if image not in images or image in seen:
            problem = "is there twice" if image in seen else "is not beside it"
            raise ExportError(
                f"the image {problem}",
                file=path,
                record=f"image {image!r}",
                fix="Export the dataset again, with its images",
            )
        seen.add(image)
        for number, found in enumerate(entry["annotations"]):
            place = (path, f"image {image!r}, annotation {number}")
            yield {
                "image": image,
                "category_id": names.index(str(found["label"])),
                "place": place,
                "bbox": _box(found["coordinates"], place),
                "segmentation": [],
            }


def _box(values: dict[str, Any], place: tuple[Path, str]) -> list[Any]:
    cx, cy, w, h = (values[key] for key in ("x", "y", "width", "height"))
    if not all(isinstance(value, int | float) for value in (cx, cy, w, h)):
        raise ExportError("coordinates that are no numbers", file=place[0], record=place[1])
    return [cx - w / 2, cy - h / 2, w, h]
