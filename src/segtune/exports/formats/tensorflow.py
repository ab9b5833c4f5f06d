"""TensorFlow object detection: one CSV for each split, a line per box, corners in pixels."""

import csv
import io
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError
from segtune.exports.split_source import SplitSource, build_split, images_in, read_text

ANNOTATIONS = "_annotations.csv"
COLUMNS = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


def present(root: Path, folder: Path) -> bool:
    """Whether a split's folder holds this format."""
    return (folder / ANNOTATIONS).is_file()


def read(root: Path, folder: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; its images lie beside the CSV, those without objects are not in it."""
    path = folder / ANNOTATIONS
    reader = csv.DictReader(io.StringIO(read_text(path)))
    if not set(COLUMNS) <= set(reader.fieldnames or ()):
        raise ExportError(
            f"its columns are not {', '.join(COLUMNS)}", file=path, fix="Export it again"
        )
    rows = list(reader)
    images = images_in(folder)
    names = sorted({row["class"] or "" for row in rows})
    known = {image.name for image in images}
    objects = [_object(row, n, names, known, path) for n, row in enumerate(rows, start=2)]
    return build_split(path, images, names, objects)


def _object(
    row: dict[str, str], line: int, names: list[str], images: set[str], path: Path
) -> dict[str, Any]:
    def refuse(problem: str) -> ExportError:
        return ExportError(
            problem, file=path, record=f"line {line}", fix="Export the dataset again"
        )

    if row["filename"] not in images:
        raise refuse(f"the image {row['filename']!r} is not beside it")
    try:
        left, top, right, bottom = (float(row[c]) for c in ("xmin", "ymin", "xmax", "ymax"))
    except (TypeError, ValueError):
        raise refuse("corners that are no numbers") from None
    return {
        "image": row["filename"],
        "category_id": names.index(row["class"] or ""),
        "place": (path, f"line {line}"),
        "bbox": [left, top, right - left, bottom - top],
        "segmentation": [],
    }
