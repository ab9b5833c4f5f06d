"""The template fields of each image: from its record, or from a CSV beside the export."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from segtune.core.errors import ConfigError, shown
from segtune.core.foreign import file_problem
from segtune.exports.missing_splits import original_name
from segtune.exports.parsing import read_table
from segtune.exports.split_source import SourceImage, SplitSource, name_problem

KEY = "file_name"
Fields = Mapping[str, str]


def fields_per_image(
    source: SplitSource, wanted: set[str], rows: Mapping[str, Fields]
) -> dict[int, Fields]:
    """The wanted fields of each image of a split, by image id; empty where none are wanted.

    Args:
        source: the split.
        wanted: names of fields, as a template uses them.
        rows: from `read_rows`; they take precedence over an image's record.

    Raises:
        ConfigError: when an image lacks a field.
    """
    if not wanted:
        return {}
    return {image.id: _fields(image, wanted, rows, source.path) for image in source.images}


def read_rows(table: str, export: Path) -> dict[str, Fields]:
    """A CSV of fields per image.

    Args:
        table: its path, absolute or relative to the export, to the folder of the export or to
            the working directory. The column `file_name` may hold names of the export's images
            or of the originals that they were augmented from.
        export: the export.

    Raises:
        ConfigError: when there is no such file or column, or an image is a duplicate.
        ExportError: when the file is not a CSV.
    """
    path = _locate(table, export)
    columns, lines = read_table(path)
    if KEY not in columns:
        raise ConfigError(
            f"convert.fields has no column {KEY}", file=path, fix="Add it, with the images' names"
        )
    rows: dict[str, Fields] = {}
    for line, row in lines:
        name = row.get(KEY, "")
        if name in rows:
            raise ConfigError(
                f"{name} is a duplicate",
                file=path,
                record=f"line {line}",
                fix="Keep one line for each image",
            )
        rows[name] = {column: text.strip() for column, text in row.items() if column}
    return rows


def _locate(table: str, export: Path) -> Path:
    places = [export / table, export.parent / table, Path(table)]
    found = next((place for place in places if not file_problem(place)), None)
    if found is None:
        raise ConfigError(
            "convert.fields: no such file, neither in the export nor beside it",
            file=table,
            fix="Set convert.fields to its path",
        )
    return found


def _fields(
    image: SourceImage, wanted: set[str], rows: Mapping[str, Fields], file: Path
) -> dict[str, str]:
    row = next((rows[name] for name in _names(image) if name in rows), {})
    size = {"width": image.width, "height": image.height}
    known = {"id": image.id, KEY: image.file_name, **size, **image.fields, **row}
    if missing := sorted(field for field in wanted if not _is_text(known.get(field))):
        raise ConfigError(
            f"convert.template uses {missing}, which this image does not have",
            file=file,
            record=f"image {image.file_name}",
            fix="Add it to the CSV that convert.fields names, or remove it from the template",
        )
    fields = {field: str(known[field]).strip() for field in sorted(wanted)}
    for field, text in fields.items():
        if problem := name_problem(text):
            raise ConfigError(
                f"the field {field!r} of convert.template is {shown(text)}, which {problem}",
                file=file,
                record=f"image {image.file_name}",
                fix="Correct it",
            )
    return fields


def _names(image: SourceImage) -> Iterable[str]:
    """The names that a table may list an image by.

    Roboflow turns "a.jpg" into "a_jpg.rf.0123abcd.jpg".
    """
    original = original_name(image)
    stem, _, suffix = original.rpartition(".")
    return image.file_name, original, stem, f"{stem.removesuffix(f'_{suffix}')}.{suffix}"


def _is_text(value: object) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, str | int | float) and bool(str(value).strip())
