"""CreateML: one JSON for each split; `x, y` are the centre of a box, in pixels."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segtune.config import ConvertSettings
from segtune.errors import ExportError
from segtune.sources import SplitSource, assembled, pictures_in, read_text

ANNOTATIONS = "_annotations.createml.json"


def present(root: Path, folder: Path) -> bool:
    """Whether a split's folder holds this format."""
    return (folder / ANNOTATIONS).is_file()


def read(root: Path, folder: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; its pictures lie beside the JSON."""
    path = folder / ANNOTATIONS
    pictures = pictures_in(folder)
    try:
        entries = json.loads(read_text(path))
        labels = {str(o["label"]) for entry in entries for o in entry["annotations"]}
        names = sorted(labels)
        objects = list(_objects(entries, names, {p.name for p in pictures}, path))
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"no CreateML JSON ({error!r})", file=path, remedy="Export the dataset again"
        ) from None
    return assembled(path, pictures, names, objects)


def _objects(
    entries: list[dict[str, Any]], names: list[str], pictures: set[str], path: Path
) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for entry in entries:
        picture = entry["image"]
        if picture not in pictures or picture in seen:
            problem = "is there twice" if picture in seen else "is not beside it"
            raise ExportError(
                f"the picture {problem}",
                file=path,
                record=f"image {picture!r}",
                remedy="Export the dataset again, with its pictures",
            )
        seen.add(picture)
        for number, found in enumerate(entry["annotations"]):
            place = (path, f"image {picture!r}, annotation {number}")
            yield {
                "picture": picture,
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
