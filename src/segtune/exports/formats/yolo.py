"""YOLO, versions 5 to 12: a text file per image, a line per object, and a data.yaml.

A line is `class cx cy w h` (a box) or `class x1 y1 x2 y2 x3 y3 …` (a polygon), in shares of the
image's width and height; one file may hold both. Nine values are a polygon of four points
unless the settings say that they are oriented boxes: those are no outlines, so their upright
box alone is kept.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError
from segtune.exports.split_source import SplitSource, build_split, image_size, images_in, read_text

CONFIG = "data.yaml"
KEYS = {"train": "train", "valid": "val", "val": "val", "test": "test"}  # folder -> key
MAX_FRACTION = 2.0  # shares; what lies further out was never divided by the image's size


def present(root: Path, folder: Path) -> bool:
    """Whether a split's folder holds this format."""
    return (root / CONFIG).is_file() and (_images(root, folder).parent / "labels").is_dir()


def read(root: Path, folder: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split: `images/` and `labels/` beside each other."""
    names = _names(root / CONFIG)
    place = _images(root, folder)
    if not place.is_dir():
        raise ExportError(
            "the folder of the images is missing", file=place, fix="Export the dataset again"
        )
    images, labels = images_in(place), place.parent / "labels"
    _require_images(labels, {path.stem for path in images})
    objects = (found for path in images for found in _objects(path, labels, names, settings))
    return build_split(labels, images, names, objects)


def _images(root: Path, folder: Path) -> Path:
    """Where data.yaml says the images are; what it says is often of another machine.

    Of a path that does not exist here, the longest ending that exists beside data.yaml.
    """
    stated = _config(root / CONFIG).get(KEYS.get(folder.name, folder.name))
    parts = PurePosixPath(stated.replace("\\", "/")).parts if isinstance(stated, str) else ()
    inside = [part for part in parts if part not in ("..", "/", ".")]
    for start in range(len(inside)):
        place = root.joinpath(*inside[start:])
        if place.is_dir():
            return place
    return folder / "images"


def _config(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        reason = str(error).partition("\n")[0]
        raise ExportError(f"no readable YAML ({reason})", file=path) from None
    if not isinstance(values, dict):
        raise ExportError("no table of settings", file=path, fix="Export the dataset again")
    return values


def _names(path: Path) -> list[str]:
    """The classes in the order of their index; a list, or a map from the index."""
    values = _config(path)
    names = values.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise ExportError(
                f"names has the indices {sorted(map(str, names))} instead of 0 to {len(names) - 1}",
                file=path,
                fix="Number the classes from 0",
            )
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ExportError("no list of names", file=path, fix="Export the dataset again")
    count = values.get("nc", len(names))
    if count != len(names):
        raise ExportError(
            f"nc is {count}, but there are {len(names)} names",
            file=path,
            fix="Correct the one that is wrong",
        )
    return [str(name) for name in names]


def _require_images(labels: Path, stems: set[str]) -> None:
    for path in sorted(labels.glob("*.txt")):
        if path.stem not in stems and not path.name.startswith("._"):
            raise ExportError(
                "labels of an image that is not there",
                file=path,
                fix="Export the dataset again, with its images",
            )


def _objects(
    image: Path, labels: Path, names: list[str], settings: ConvertSettings
) -> Iterator[dict[str, Any]]:
    """The objects of one image. Without a file of labels it shows nothing."""
    path = labels / f"{image.stem}.txt"
    if not path.is_file():
        return
    width, height = image_size(image)
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            place = (path, f"line {number}")
            index, shares = _numbers(line, place, len(names))
            yield {
                "image": image.name,
                "category_id": index,
                "place": place,
                **_shape(shares, width, height, place, settings.oriented_boxes),
            }


def _numbers(line: str, place: tuple[Path, str], classes: int) -> tuple[int, list[float]]:
    def refuse(problem: str, fix: str) -> ExportError:
        return ExportError(problem, file=place[0], record=place[1], fix=fix)

    try:
        first, *shares = map(float, line.split())
    except ValueError:
        raise refuse(f"{line[:60]!r} is no line of numbers", "Export it again") from None
    if first != int(first) or not 0 <= first < classes:
        raise refuse(
            f"class {first:g}, but {CONFIG} names {classes} classes, from 0",
            f"Correct the line, or name the class in {CONFIG}",
        )
    if not all(abs(share) <= MAX_FRACTION for share in shares):
        raise refuse(
            "coordinates that are no shares of the image's width and height",
            "Divide them by the image's size",
        )
    return int(first), shares


def _shape(
    shares: list[float], width: int, height: int, place: tuple[Path, str], oriented: bool
) -> dict[str, Any]:
    if len(shares) == 4:
        cx, cy, w, h = shares
        box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
        return {"bbox": box, "segmentation": []}
    if len(shares) < 6 or len(shares) % 2:
        raise ExportError(
            f"{len(shares)} coordinates are neither a box (4) nor points of a polygon",
            file=place[0],
            record=place[1],
            fix="Correct the line",
        )
    xs, ys = [x * width for x in shares[::2]], [y * height for y in shares[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    if oriented and len(shares) == 8:
        return {"bbox": box, "segmentation": []}
    points = [value for point in zip(xs, ys, strict=True) for value in point]
    return {"bbox": box, "segmentation": [points]}
