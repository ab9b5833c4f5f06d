"""Pascal VOC: an XML for each image; corners in pixels, sometimes a polygon too."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError, shown
from segtune.exports.files import files_by_stem, image_files
from segtune.exports.parsing import read_xml
from segtune.exports.split_source import (
    EXPORT_IMAGES,
    Place,
    Reader,
    SourceAnnotation,
    SourceImage,
    SplitSource,
    categories_from_names,
    images_from_files,
    require_size,
)

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class _Object:
    """An object; the ids of classes are only known once all files are read."""

    image_id: int
    name: str
    place: Place
    bbox: list[float]
    polygons: list[list[float]]


def find(root: Path, folders: Mapping[str, Path]) -> dict[str, Reader]:
    """The readers of the splits that have this format."""
    files = {split: files_by_stem(folder, {".xml"}) for split, folder in folders.items()}
    return {s: partial(_read, folders[s], paths) for s, paths in files.items() if paths}


def _read(folder: Path, paths: Mapping[str, Path], settings: ConvertSettings) -> SplitSource:
    """Read one split; each image is beside its XML and has its name."""
    images = images_from_files(image_files(folder))
    by_stem = {image.path.stem: image for image in images}
    objects = [found for path in paths.values() for found in _objects(path, by_stem)]
    names = sorted({found.name for found in objects})
    ids = {name: number for number, name in enumerate(names)}
    annotations = tuple(
        SourceAnnotation(o.image_id, ids[o.name], o.place, o.bbox, o.polygons) for o in objects
    )
    return SplitSource(folder, categories_from_names(names, folder), images, annotations)


def _objects(path: Path, images: Mapping[str, SourceImage]) -> Iterator[_Object]:
    if path.stem not in images:
        raise ExportError(
            "labels of an image that is not in the same folder", file=path, fix=EXPORT_IMAGES
        )
    root, image = read_xml(path), images[path.stem]
    _check_size(root.find("size"), image, path)
    for number, element in enumerate(root.iter("object"), start=1):
        place = Place(path, f"object {number}")
        box = _children(element.find("bndbox"))
        left, top, right, bottom = (_number(box, corner, place) for corner in CORNERS)
        yield _Object(
            image_id=image.id,
            name=(element.findtext("name") or "").strip(),
            place=place,
            bbox=[left, top, right - left, bottom - top],
            polygons=_polygons(element.find("polygon"), place),
        )


def _check_size(element: ElementTree.Element | None, image: SourceImage, path: Path) -> None:
    sides, place = _children(element), Place(path, "size")
    if sides:
        stated = _number(sides, "width", place), _number(sides, "height", place)
        # Labeling tools write zeros where they do not know the size.
        if any(stated):
            require_size(stated, image, place)


def _polygons(element: ElementTree.Element | None, place: Place) -> list[list[float]]:
    """At most one polygon: `x1, y1, x2, y2, …` as elements."""
    if element is None:
        return []
    points = _children(element)
    count = sum(name.startswith("x") for name in points)
    names = [f"{axis}{number}" for number in range(1, count + 1) for axis in "xy"]
    return [[_number(points, name, place) for name in names]]


def _children(element: ElementTree.Element | None) -> dict[str, str]:
    """The text of each child by its tag; the first where several have the same."""
    found: dict[str, str] = {}
    for child in element if element is not None else ():
        found.setdefault(child.tag, child.text or "")
    return found


def _number(values: Mapping[str, str], name: str, place: Place) -> float:
    text = values.get(name)
    try:
        return float(text or "")
    except ValueError:
        raise place.error(f"{name} is {shown(text)}, not a number") from None
