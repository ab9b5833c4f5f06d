"""COCO and COCO segmentation: one JSON for each split."""

import json
from array import array
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError
from segtune.exports.archive import danger_of
from segtune.exports.split_source import SplitSource

ANNOTATIONS = "_annotations.coco.json"
PLAIN = {int, float}
TABLES = ("images", "annotations", "categories")


def present(root: Path, folder: Path) -> bool:
    """Whether a split's folder holds this format."""
    return _annotation_file(folder) is not None


def read(root: Path, folder: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; its images lie beside the JSON or in `images/`."""
    path = _annotation_file(folder)
    assert path is not None  # `present` was asked first
    values = read_coco(path)
    return SplitSource(path, values, _images(path, values))


def _annotation_file(folder: Path) -> Path | None:
    if (folder / ANNOTATIONS).is_file():
        return folder / ANNOTATIONS
    others = [p for p in sorted(folder.glob("*.json")) if not p.name.startswith(("._", "_anno"))]
    found = [path for path in others if _looks_like_coco(path)]
    if len(found) > 1:
        names = ", ".join([*(path.name for path in found[:3]), *(["…"] if found[3:] else [])])
        raise ExportError(
            f"{len(found)} COCO files: {names}",
            file=folder,
            fix="Keep the one of the whole split",
        )
    return found[0] if found else None


def _looks_like_coco(path: Path) -> bool:
    """By the name of a table; formats of one JSON per image have none of that name."""
    with path.open("rb") as file:
        while block := file.read(2**20):
            if b'"images"' in block or b'"categories"' in block:
                return True
    return False


def read_coco(path: Path) -> dict[str, Any]:
    """Read a COCO JSON and check the shape of its three tables.

    Raises:
        ExportError: when it is no JSON, a table is missing or holds no records, or an id of
            a category or of what an annotation refers to is no whole number.
    """
    try:
        values = json.loads(path.read_text("utf-8"), object_hook=_compact)
    except (OSError, ValueError) as error:
        raise ExportError(
            f"no readable JSON ({error})", file=path, fix="Export the dataset again"
        ) from None
    for table in TABLES:
        records = values.get(table) if isinstance(values, dict) else None
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            raise ExportError(
                f"no table {table!r} of records", file=path, fix="Export the dataset as COCO"
            )
    for record in values["categories"]:
        _require_whole(record, ("id",), "category", path)
    for record in values["annotations"]:
        _require_whole(record, ("image_id", "category_id"), "annotation", path)
    _require_distinct_ids(values["categories"], path)
    return {table: values[table] for table in TABLES}


def _compact(record: dict[str, Any]) -> dict[str, Any]:
    """Polygons as arrays while the file is read: lists would fill the memory."""
    parts = record.get("segmentation")
    if isinstance(parts, list):
        record["segmentation"] = [_as_array(part) for part in parts]
    return record


def _as_array(part: Any) -> Any:
    # What is no list of plain numbers is left to be refused or repaired.
    if isinstance(part, list) and set(map(type, part)) <= PLAIN:
        try:
            return array("d", part)
        except OverflowError:  # an integer beyond all floats
            return part
    return part


def _require_whole(record: dict[str, Any], keys: tuple[str, ...], kind: str, path: Path) -> None:
    for key in keys:
        if not isinstance(record.get(key), int):
            raise ExportError(
                f"{key} {record.get(key)!r} is no whole number",
                file=path,
                record=f"{kind} {record.get('id')}",
                fix="Export the dataset again",
            )


def _require_distinct_ids(categories: list[dict[str, Any]], path: Path) -> None:
    names: dict[int, Any] = {}
    for record in categories:
        if record["id"] in names:
            raise ExportError(
                f"{names[record['id']]!r} and {record.get('name')!r} have one id, so nobody "
                "can tell their objects apart",
                file=path,
                record=f"category {record['id']}",
                fix="Export the dataset again",
            )
        names[record["id"]] = record.get("name")


def _images(annotations: Path, values: dict[str, Any]) -> dict[str, Path]:
    folder, found = annotations.parent, {}
    for record in values["images"]:
        name = record.get("file_name")
        if not isinstance(name, str) or danger_of(name):
            raise ExportError(
                f"file_name {name!r} is no name below the split",
                file=annotations,
                record=f"image {record.get('id')}",
            )
        places = [folder / name, folder / "images" / name]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise ExportError(
                f"the image {name} is neither beside it nor in images/",
                file=annotations,
                record=f"image {record.get('id')}",
                fix="Export the dataset again, with its images",
            )
        found[name] = path
    return found
