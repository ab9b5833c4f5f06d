"""TensorFlow object detection: one CSV for each split, a line per box, corners in pixels."""

import csv
import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError
from segtune.exports.split_source import (
    EXPORT_AGAIN,
    Place,
    Reader,
    SourceAnnotation,
    SplitSource,
    categories_from_names,
    image_files,
    images_from_files,
    read_text,
)

ANNOTATIONS = "_annotations.csv"
COLUMNS = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


def find(root: Path, folders: Mapping[str, Path]) -> dict[str, Reader]:
    """The readers of the splits that have this format."""
    paths = {split: folder / ANNOTATIONS for split, folder in folders.items()}
    return {split: partial(_read, path) for split, path in paths.items() if path.is_file()}


def _read(path: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; images beside the CSV that it does not list have no objects."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    if not set(COLUMNS) <= set(reader.fieldnames or ()):
        problem = f"columns other than {', '.join(COLUMNS)}"
        raise ExportError(problem, file=path, fix=EXPORT_AGAIN)
    rows = list(reader)
    images = images_from_files(image_files(path.parent))
    image_ids = {image.file_name: image.id for image in images}
    names = sorted({row["class"] or "" for row in rows})
    annotations = tuple(
        _annotation(row, Place(path, f"line {line}"), names, image_ids)
        for line, row in enumerate(rows, start=2)
    )
    return SplitSource(path, categories_from_names(names, path), images, annotations)


def _annotation(
    row: dict[str, str], place: Place, names: list[str], image_ids: Mapping[str, int]
) -> SourceAnnotation:
    if row["filename"] not in image_ids:
        raise place.error(f"the image {row['filename']!r} is not in the same folder")
    try:
        left, top, right, bottom = (float(row[c]) for c in ("xmin", "ymin", "xmax", "ymax"))
    except (TypeError, ValueError):
        raise place.error("corners that are not numbers") from None
    return SourceAnnotation(
        image_id=image_ids[row["filename"]],
        category_id=names.index(row["class"] or ""),
        place=place,
        bbox=[left, top, right - left, bottom - top],
    )
