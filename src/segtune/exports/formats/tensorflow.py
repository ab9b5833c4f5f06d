"""TensorFlow object detection: one CSV for each split, a line per box, corners in pixels."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError, shown
from segtune.exports.annotations import parse_number
from segtune.exports.files import file_named, image_files
from segtune.exports.parsing import read_table
from segtune.exports.split_source import (
    EXPORT_AGAIN,
    Place,
    Reader,
    SourceAnnotation,
    SourceImage,
    SplitSource,
    categories_from_names,
    images_from_files,
    require_size,
)

ANNOTATIONS = "_annotations.csv"
COLUMNS = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


def find(root: Path, folders: Mapping[str, Path]) -> dict[str, Reader]:
    """The readers of the splits that have this format."""
    paths = {split: file_named(folder, ANNOTATIONS) for split, folder in folders.items()}
    return {split: partial(_read, path) for split, path in paths.items() if path}


def _read(path: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; images beside the CSV that it does not list have no objects."""
    columns, rows = read_table(path)
    if not set(COLUMNS) <= set(columns):
        problem = f"columns other than {', '.join(COLUMNS)}"
        raise ExportError(problem, file=path, fix=EXPORT_AGAIN)
    images = images_from_files(image_files(path.parent))
    by_name = {image.file_name: image for image in images}
    names = sorted({row.get("class", "") for _, row in rows})
    ids = {name: number for number, name in enumerate(names)}
    annotations = tuple(
        _annotation(row, Place(path, f"line {line}"), ids, by_name) for line, row in rows
    )
    return SplitSource(path, categories_from_names(names, path), images, annotations)


def _annotation(
    row: dict[str, str],
    place: Place,
    ids: Mapping[str, int],
    images: Mapping[str, SourceImage],
) -> SourceAnnotation:
    name = row.get("filename", "")
    image = images.get(name)
    if image is None:
        raise place.error(f"the image {shown(name)} is not in the same folder")
    try:
        left, top, right, bottom = (float(row[c]) for c in ("xmin", "ymin", "xmax", "ymax"))
    except (KeyError, ValueError):
        raise place.error("corners that are not numbers") from None
    width, height = (parse_number(row.get(side), place) for side in ("width", "height"))
    require_size((width, height), image, place)
    return SourceAnnotation(
        image_id=image.id,
        category_id=ids[row.get("class", "")],
        place=place,
        bbox=[left, top, right - left, bottom - top],
    )
