"""YOLO, versions 5 to 12: a text file per image, a line per object, and a data.yaml.

A line is `class cx cy w h` (a box) or `class x1 y1 x2 y2 x3 y3 …` (a polygon), in fractions of
the image's width and height; one file may contain both. Nine values are a polygon of four
points unless the settings say that they are oriented boxes: those are not outlines, so only
their axis-aligned box is kept.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ExportError, shown
from segtune.exports.files import file_named, files_by_stem, image_files, is_folder
from segtune.exports.parsing import read_text, read_yaml
from segtune.exports.split_source import (
    EXPORT_AGAIN,
    EXPORT_IMAGES,
    Place,
    Reader,
    SourceAnnotation,
    SourceImage,
    SplitSource,
    categories_from_names,
    images_from_files,
)

CONFIG = "data.yaml"
KEYS = {"train": "train", "valid": "val", "test": "test"}  # split -> key in data.yaml
MAX_FOLDERS = 20  # of a path in data.yaml
MAX_FRACTION = 2.0  # what lies further out was never divided by the image's size
CORRECT_LINE = "Correct the line"


def find(root: Path, folders: Mapping[str, Path]) -> dict[str, Reader]:
    """The readers of the splits that have this format."""
    path = file_named(root, CONFIG)
    if path is None:
        return {}
    config = read_yaml(path)
    readers: dict[str, Reader] = {}
    for split, folder in folders.items():
        images = _image_folder(config.get(KEYS[split]), root, folder)
        if (images.parent / "labels").is_dir():
            readers[split] = partial(_read, images, path, config)
    return readers


def _read(
    folder: Path, config_path: Path, config: Mapping[str, Any], settings: ConvertSettings
) -> SplitSource:
    """Read one split: `images/` and `labels/` beside each other."""
    names = _names(config, config_path)
    if not folder.is_dir():
        raise ExportError("the folder of the images is missing", file=folder, fix=EXPORT_IMAGES)
    paths, labels = image_files(folder), folder.parent / "labels"
    texts = files_by_stem(labels, {".txt"})
    _require_images(texts, {path.stem for path in paths})
    images = images_from_files(paths)
    annotations = tuple(
        annotation
        for image in images
        # Without a file of labels, an image has no objects.
        if (path := texts.get(image.path.stem))
        for annotation in _annotations(
            image, path, classes=len(names), oriented=settings.oriented_boxes
        )
    )
    return SplitSource(labels, categories_from_names(names, config_path), images, annotations)


def _image_folder(stated: object, root: Path, folder: Path) -> Path:
    """Where data.yaml says the images are; its path is often of another machine.

    Of a path that does not exist here, the longest ending that exists beside data.yaml.
    """
    parts = PurePosixPath(stated.replace("\\", "/")).parts if isinstance(stated, str) else ()
    inside = [part for part in parts if part not in ("..", "/", ".")][-MAX_FOLDERS:]
    for start in range(len(inside)):
        place = root.joinpath(*inside[start:])
        if is_folder(place):
            return place
    return folder / "images"


def _names(config: Mapping[str, Any], path: Path) -> list[str]:
    """The classes in the order of their index; from a list, or a map from the index."""
    names = config.get("names")
    if isinstance(names, dict):
        indices = {str(index): index for index in range(len(names))}
        if names.keys() != indices.keys():
            raise ExportError(
                f"names has the indices {shown(sorted(names))} instead of 0 to {len(names) - 1}",
                file=path,
                fix="Number the classes from 0",
            )
        names = [names[index] for index in indices]
    if not isinstance(names, list) or not names:
        raise ExportError("has no list of names", file=path, fix=EXPORT_AGAIN)
    count = config.get("nc", str(len(names)))
    if count != str(len(names)):
        raise ExportError(
            f"nc is {count[:20] if isinstance(count, str) else shown(count)}, but there are "
            f"{len(names)} names",
            file=path,
            fix="Correct the one that is wrong",
        )
    return names


def _require_images(labels: Mapping[str, Path], stems: set[str]) -> None:
    for stem, path in labels.items():
        if stem not in stems:
            raise ExportError(
                "labels of an image that does not exist", file=path, fix=EXPORT_IMAGES
            )


def _annotations(
    image: SourceImage, path: Path, *, classes: int, oriented: bool
) -> Iterator[SourceAnnotation]:
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        place = Place(path, f"line {number}")
        category, fractions = _numbers(line, place, classes)
        bbox, polygons = _shape(fractions, image, place, oriented)
        yield SourceAnnotation(image.id, category, place, bbox, polygons)


def _numbers(line: str, place: Place, classes: int) -> tuple[int, list[float]]:
    try:
        first, *fractions = map(float, line.split())
    except ValueError:
        raise place.error(f"{line[:60]!r} is not a line of numbers") from None
    if not first.is_integer() or not 0 <= first < classes:
        raise place.error(
            f"class {first:g}, but {CONFIG} names {classes} classes, from 0",
            f"Correct the line, or name the class in {CONFIG}",
        )
    if not all(abs(fraction) <= MAX_FRACTION for fraction in fractions):
        raise place.error(
            "coordinates that are not fractions of the image's width and height",
            "Divide them by the image's size",
        )
    return int(first), fractions


def _shape(
    fractions: list[float], image: SourceImage, place: Place, oriented: bool
) -> tuple[list[float], list[list[float]]]:
    """The box x, y, w, h and the polygons, at most one, in pixels."""
    if len(fractions) == 4:
        cx, cy, w, h = fractions
        return [
            (cx - w / 2) * image.width,
            (cy - h / 2) * image.height,
            w * image.width,
            h * image.height,
        ], []
    if len(fractions) < 6 or len(fractions) % 2:
        raise place.error(
            f"{len(fractions)} coordinates are neither a box (4) nor points of a polygon",
            CORRECT_LINE,
        )
    xs = [x * image.width for x in fractions[::2]]
    ys = [y * image.height for y in fractions[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    if oriented and len(fractions) == 8:
        return box, []
    return box, [[value for point in zip(xs, ys, strict=True) for value in point]]
