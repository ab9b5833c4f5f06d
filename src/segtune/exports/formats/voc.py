"""Pascal VOC: an XML for each image; corners in pixels, sometimes a polygon too."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError
from segtune.exports.split_source import (
    EXPORT_AGAIN,
    EXPORT_IMAGES,
    Place,
    Reader,
    SourceAnnotation,
    SourceImage,
    SplitSource,
    categories_from_names,
    image_files,
    images_from_files,
    read_text,
)

CORNERS = ("xmin", "ymin", "xmax", "ymax")
ENTITIES = re.compile(r"<!(DOCTYPE|ENTITY)", re.IGNORECASE)  # how a small XML fills the memory


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
    files = {split: _files(folder) for split, folder in folders.items()}
    return {s: partial(_read, folders[s], paths) for s, paths in files.items() if paths}


def _read(folder: Path, paths: Sequence[Path], settings: ConvertSettings) -> SplitSource:
    """Read one split; each image is beside its XML and has its name."""
    images = images_from_files(image_files(folder))
    by_stem = {image.path.stem: image for image in images}
    objects = [found for path in paths for found in _objects(path, by_stem)]
    names = sorted({found.name for found in objects})
    annotations = tuple(
        SourceAnnotation(o.image_id, names.index(o.name), o.place, o.bbox, o.polygons)
        for o in objects
    )
    return SplitSource(folder, categories_from_names(names, folder), images, annotations)


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.xml")) if not path.name.startswith("._")]


def _objects(path: Path, images: Mapping[str, SourceImage]) -> Iterator[_Object]:
    if path.stem not in images:
        raise ExportError(
            "labels of an image that is not in the same folder", file=path, fix=EXPORT_IMAGES
        )
    for number, element in enumerate(_root(path).iter("object"), start=1):
        place = Place(path, f"object {number}")
        left, top, right, bottom = (_number(element.find("bndbox"), c, place) for c in CORNERS)
        yield _Object(
            image_id=images[path.stem].id,
            name=(element.findtext("name") or "").strip(),
            place=place,
            bbox=[left, top, right - left, bottom - top],
            polygons=_polygons(element.find("polygon"), place),
        )


def _root(path: Path) -> ElementTree.Element:
    text = read_text(path)
    try:
        if ENTITIES.search(text):
            raise ValueError("it declares entities")
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ExportError(f"cannot read the XML ({error})", file=path, fix=EXPORT_AGAIN) from None


def _polygons(element: ElementTree.Element | None, place: Place) -> list[list[float]]:
    """At most one polygon: `x1, y1, x2, y2, …` as elements."""
    if element is None:
        return []
    count = sum(child.tag.startswith("x") for child in element)
    names = [f"{axis}{number}" for number in range(1, count + 1) for axis in "xy"]
    return [[_number(element, name, place) for name in names]]


def _number(element: ElementTree.Element | None, name: str, place: Place) -> float:
    text = element.findtext(name) if element is not None else None
    try:
        return float(text or "")
    except ValueError:
        raise place.error(f"{name} is {text!r}, not a number") from None
