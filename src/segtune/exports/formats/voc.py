"""Pascal VOC: an XML for each image; corners in pixels, at times a polygon too."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError
from segtune.exports.split_source import SplitSource, build_split, images_in, read_text

CORNERS = ("xmin", "ymin", "xmax", "ymax")
ENTITIES = re.compile(r"<!(DOCTYPE|ENTITY)", re.IGNORECASE)  # how XML fills a memory


def present(root: Path, folder: Path) -> bool:
    """Whether a split's folder holds this format."""
    return any(_files(folder))


def read(root: Path, folder: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; the images lie beside the files and have their names."""
    images = images_in(folder)
    by_stem = {path.stem: path for path in images}
    found = [o for path in _files(folder) for o in _objects(path, by_stem)]
    names = sorted({o["name"] for o in found})
    objects = ({**o, "category_id": names.index(o.pop("name"))} for o in found)
    return build_split(folder, images, names, objects)


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.xml")) if not path.name.startswith("._")]


def _objects(path: Path, images: dict[str, Path]) -> Iterator[dict[str, Any]]:
    if path.stem not in images:
        raise ExportError(
            "labels of an image that is not beside it",
            file=path,
            fix="Export the dataset again, with its images",
        )
    for number, element in enumerate(_root(path).iter("object"), start=1):
        place = (path, f"object {number}")
        left, top, right, bottom = _box(element.find("bndbox"), place)
        yield {
            "image": images[path.stem].name,
            "name": (element.findtext("name") or "").strip(),
            "place": place,
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": _polygon(element.find("polygon"), place),
        }


def _root(path: Path) -> ElementTree.Element:
    text = read_text(path)
    try:
        if ENTITIES.search(text):
            raise ValueError("it declares entities")
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise ExportError(
            f"no readable XML ({error})", file=path, fix="Export the dataset again"
        ) from None


def _box(element: ElementTree.Element | None, place: tuple[Path, str]) -> list[float]:
    return [_number(element, name, place) for name in CORNERS]


def _polygon(element: ElementTree.Element | None, place: tuple[Path, str]) -> list[list[float]]:
    """`x1, y1, x2, y2, …` as elements."""
    if element is None:
        return []
    count = sum(child.tag.startswith("x") for child in element)
    names = [f"{axis}{number}" for number in range(1, count + 1) for axis in "xy"]
    return [[_number(element, name, place) for name in names]]


def _number(element: ElementTree.Element | None, name: str, place: tuple[Path, str]) -> float:
    text = element.findtext(name) if element is not None else None
    try:
        return float(text or "")
    except ValueError:
        raise ExportError(
            f"{name} is {text!r}, no number",
            file=place[0],
            record=place[1],
            fix="Export the dataset again",
        ) from None
