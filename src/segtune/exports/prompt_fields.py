"""What an image's prompts may tell of it: fields of its record, or of a CSV beside the export."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segtune.core.errors import ConfigError
from segtune.exports.missing_splits import source_of
from segtune.exports.split_source import SplitSource, read_text

KEY = "file_name"
Conditions = Mapping[str, Mapping[str, str]]  # file name of an image -> its fields


def fields_per_image(source: SplitSource, wanted: set[str], rows: Conditions) -> Conditions:
    """The wanted fields of each image of a split; empty where nothing is wanted.

    Args:
        source: the split.
        wanted: names of fields, as a template uses them.
        rows: from `read_rows`; they come before what an image's record says.

    Raises:
        ConfigError: when an image lacks a field.
    """
    return {
        str(image.get(KEY)): _fields(image, wanted, rows, source.annotations)
        for image in (source.values["images"] if wanted else [])
    }


def read_rows(table: str, export: Path) -> Conditions:
    """A CSV of fields per image.

    Args:
        table: its path below the export, beside it or anywhere. The column `file_name` may
            hold names of the export or of the images it was made from.
        export: the export.

    Raises:
        ConfigError: when there is no such file or column, or an image is there twice.
    """
    return _rows(_place(table, export))


def _place(table: str, export: Path) -> Path:
    places = [export / table, export.parent / table, Path(table)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ConfigError(
            "convert.fields: no such file, neither in the export nor beside it",
            file=table,
            fix="Give its path",
        )
    return found


def _rows(path: Path) -> Conditions:
    reader = csv.DictReader(io.StringIO(read_text(path)))
    if KEY not in (reader.fieldnames or ()):
        raise ConfigError(f"convert.fields: no column {KEY}", file=path)
    rows: dict[str, dict[str, str]] = {}
    for line, row in enumerate(reader, start=2):
        if row[KEY] in rows:
            raise ConfigError(
                f"{row[KEY]} is there twice",
                file=path,
                record=f"line {line}",
                fix="Keep one line for each image",
            )
        rows[row[KEY]] = {k: v.strip() for k, v in row.items() if k and isinstance(v, str)}
    return rows


def _fields(
    image: Mapping[str, Any], wanted: set[str], rows: Conditions, file: Path
) -> dict[str, str]:
    extra = image.get("extra")
    name, source = str(image.get("file_name")), source_of(image)
    row = next((rows[key] for key in _names(name, source) if key in rows), {})
    known = {**image, **(extra if isinstance(extra, dict) else {}), **row}
    values = {field: known[field] for field in wanted if _is_word(known.get(field))}
    if missing := sorted(wanted - values.keys()):
        raise ConfigError(
            f"convert.template uses {missing}, which this image does not have",
            file=file,
            record=f"image {name}",
            fix="Add it to the CSV that convert.fields names, or leave it out",
        )
    return {field: str(value).strip() for field, value in values.items()}


def _names(name: str, source: str) -> Iterable[str]:
    """What a table may call an image; "a_jpg" is what Roboflow makes of "a.jpg"."""
    stem, _, suffix = source.rpartition(".")
    return name, source, stem, f"{stem.removesuffix(f'_{suffix}')}.{suffix}"


def _is_word(value: object) -> bool:
    return isinstance(value, str | int | float) and bool(str(value).strip())
