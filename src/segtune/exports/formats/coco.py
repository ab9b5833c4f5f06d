"""COCO and COCO segmentation: one JSON for each split."""

from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError, shown
from segtune.core.foreign import file_problem
from segtune.exports.annotations import parse_number
from segtune.exports.archive import path_danger
from segtune.exports.files import file_named, mentions, other_jsons
from segtune.exports.parsing import read_json
from segtune.exports.split_source import (
    EXPORT_IMAGES,
    Place,
    Reader,
    SourceAnnotation,
    SourceCategory,
    SourceImage,
    SplitSource,
    category_name,
    image_name,
    image_size,
    integer,
    name_problem,
)

ANNOTATIONS = "_annotations.coco.json"
NUMBER_TYPES = {int, float}
TABLES = ("images", "annotations", "categories")
Record = Mapping[str, Any]  # a record of a table, as JSON has it


def find(root: Path, folders: Mapping[str, Path]) -> dict[str, Reader]:
    """The readers of the splits that have this format."""
    found = {split: _annotation_file(folder) for split, folder in folders.items()}
    return {split: partial(_read, path) for split, path in found.items() if path}


def _annotation_file(folder: Path) -> Path | None:
    if named := file_named(folder, ANNOTATIONS):
        return named
    # Formats with one JSON per image have no tables of these names.
    found = [path for path in other_jsons(folder) if mentions(path, b'"images"', b'"categories"')]
    if len(found) > 1:
        names = ", ".join([*(path.name for path in found[:3]), *(["…"] if found[3:] else [])])
        raise ExportError(
            f"{len(found)} COCO files: {names}",
            file=folder,
            fix="Keep only the one of the whole split",
        )
    return found[0] if found else None


def _read(path: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; its images are beside the JSON or in `images/`."""
    tables = _tables(path)
    categories = _categories(tables["categories"], path)
    images = _images(tables["images"], path)
    annotations = _annotations(
        tables["annotations"],
        path,
        image_ids={image.id for image in images},
        category_ids={category.id for category in categories},
    )
    return SplitSource(path, categories, images, annotations)


def _tables(path: Path) -> dict[str, list[Record]]:
    values = read_json(path, _compact)
    for table in TABLES:
        records = values.get(table) if isinstance(values, dict) else None
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            raise ExportError(
                f"the table {table!r} is missing or is not a list of records",
                file=path,
                fix="Export the dataset as COCO",
            )
    return {table: values[table] for table in TABLES}


def _compact(record: dict[str, Any]) -> dict[str, Any]:
    """Turn polygons into arrays while the file is read: lists would fill the memory."""
    parts = record.get("segmentation")
    if isinstance(parts, list):
        record["segmentation"] = [_as_array(part) for part in parts]
    return record


def _as_array(part: Any) -> Any:
    # What is not a list of plain numbers is left to be refused or repaired.
    if isinstance(part, list) and set(map(type, part)) <= NUMBER_TYPES:
        try:
            return array("d", part)
        except OverflowError:  # an integer beyond all floats
            return part
    return part


def _categories(records: Sequence[Record], path: Path) -> tuple[SourceCategory, ...]:
    found: dict[int, SourceCategory] = {}
    for record in records:
        place = Place(path, f"category {shown(record.get('id'))}")
        key, name = _integer(record, "id", place), category_name(record.get("name"), place)
        if key in found:
            raise place.error(
                f"{found[key].name!r} and {name!r} have the same id, so their objects cannot be "
                "told apart"
            )
        above = _optional_name(record.get("supercategory"), "supercategory", place)
        found[key] = SourceCategory(key, name, above)
    return tuple(found.values())


def _images(records: Sequence[Record], path: Path) -> tuple[SourceImage, ...]:
    images = tuple(_image(record, path) for record in records)
    seen: set[int | Path] = set()
    for image in images:
        # By path: "./a.jpg" and "a.jpg" are one file.
        for key, problem in (
            (image.id, f"id {image.id}"),
            (image.path, f"file_name {image.file_name!r}"),
        ):
            if key in seen:
                raise Place(path, f"image {image.id}").error(f"{problem} is a duplicate")
            seen.add(key)
    return images


def _image(record: Record, path: Path) -> SourceImage:
    place = Place(path, f"image {shown(record.get('id'))}")
    name = record.get("file_name")
    image_path = _image_path(name, place)
    stated = [parse_number(record.get(side), place) for side in ("width", "height")]
    width, height = image_size(stated[0], stated[1], place)
    extra = record.get("extra")
    extra = extra if isinstance(extra, dict) else {}
    return SourceImage(
        id=_integer(record, "id", place),
        file_name=str(name),
        path=image_path,
        width=width,
        height=height,
        original=_optional_name(extra.get("name"), "extra.name", place),
        fields={**record, **extra} if extra else record,
    )


def _optional_name(value: object, what: str, place: Place) -> str:
    """Text or a number as text; empty where there is none, or where it is of another type."""
    text = str(value) if isinstance(value, str | int) and value else ""
    if problem := name_problem(text):
        raise place.error(f"{what} {shown(text)} {problem}")
    return text


def _image_path(name: object, place: Place) -> Path:
    if not isinstance(name, str) or path_danger(name):
        raise place.error(f"file_name {shown(name)} is not a path inside the split")
    image_name(name, place.file)
    folder = place.file.parent
    for path in (folder / name, folder / "images" / name):
        if not file_problem(path):
            return path
    raise place.error(f"{name} is neither in the same folder nor in images/", EXPORT_IMAGES)


def _annotations(
    records: Sequence[Record], path: Path, *, image_ids: set[int], category_ids: set[int]
) -> tuple[SourceAnnotation, ...]:
    found = []
    for record in records:
        place = Place(path, f"annotation {shown(record.get('id'))}")
        annotation = SourceAnnotation(
            image_id=_integer(record, "image_id", place),
            category_id=_integer(record, "category_id", place),
            place=place,
            bbox=record.get("bbox"),
            segmentation=record.get("segmentation"),
            iscrowd=record.get("iscrowd"),
        )
        if annotation.image_id not in image_ids:
            raise place.error(f"image_id {annotation.image_id} does not exist")
        if annotation.category_id not in category_ids:
            raise place.error(f"category_id {annotation.category_id} does not exist")
        found.append(annotation)
    return tuple(found)


def _integer(record: Record, key: str, place: Place) -> int:
    return integer(record.get(key), key, place)
