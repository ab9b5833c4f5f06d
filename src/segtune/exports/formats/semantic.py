"""Semantic segmentation: a PNG for each image, whose pixel values are classes.

Such a mask does not separate objects. Where the settings say so, each connected component of
a class is one object; pixels that touch at a corner are connected.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
from segtune.core.foreign import read_bytes
from segtune.dataset.images import opened_image, require_few_scans
from segtune.dataset.masks import rle_bbox_xywh
from segtune.exports.components import BAND, connected_components
from segtune.exports.files import file_named, image_files
from segtune.exports.parsing import read_rows
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

CLASSES = "_classes.csv"
MASK_SUFFIX = "_mask"  # of a file's stem
BACKGROUND = {"background", "unlabeled", "unlabelled"}
MAX_VALUES = 256  # of a mask; noise has more
MAX_OBJECTS = 10_000  # of a mask; noise has more
MAX_RUNS = 4_000_000  # of a mask: its objects' lengths of one value in a column; noise has more
NOT_LABELS = "This is noise, not labels: export the mask as PNG, without smoothing or compression"


def find(root: Path, folders: Mapping[str, Path]) -> dict[str, Reader]:
    """The readers of the splits that have this format."""
    tables = {split: file_named(folder, CLASSES) for split, folder in folders.items()}
    return {s: partial(_read, folders[s], table) for s, table in tables.items() if table}


def _read(folder: Path, table: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; each `<image>_mask.png` is beside its image."""
    if not settings.connected_components:
        raise ConfigError(
            "semantic masks do not say where one object ends and the next begins",
            file=folder,
            fix="To make each connected component an object: convert: {connected_components: true}",
        )
    classes = _classes(table)
    names = [name for name in classes.values() if name.casefold() not in BACKGROUND]
    ids: dict[str, int] = {}
    for number, name in enumerate(names):
        ids.setdefault(name, number)
    paths = {path.stem: path for path in image_files(folder)}
    masks = {s.removesuffix(MASK_SUFFIX): p for s, p in paths.items() if s.endswith(MASK_SUFFIX)}
    images = images_from_files(p for p in paths.values() if not p.stem.endswith(MASK_SUFFIX))
    _require_pairs(images, masks)
    annotations = tuple(
        a for i in images for a in _annotations(i, masks[i.path.stem], classes, ids)
    )
    return SplitSource(folder, categories_from_names(names, folder), images, annotations)


def _require_pairs(images: Sequence[SourceImage], masks: Mapping[str, Path]) -> None:
    stems = {image.path.stem for image in images}
    for stem, path in masks.items():
        if stem not in stems:
            raise ExportError(
                "the mask of an image that does not exist", file=path, fix=EXPORT_IMAGES
            )
    for image in images:
        if image.path.stem not in masks:
            raise ExportError(
                f"the mask {image.path.stem}{MASK_SUFFIX}.png is missing",
                file=image.path,
                fix=EXPORT_AGAIN,
            )


def _classes(path: Path) -> dict[int, str]:
    """Pixel value -> class name."""
    try:
        rows = [(int(row[0]), row[1].strip()) for _, row in read_rows(path)[1:]]
        classes = dict(rows)
        if len(classes) != len(rows):
            raise ValueError("a pixel value is a duplicate")
    except (IndexError, ValueError):
        raise ExportError(
            "not a table of pixel values and classes", file=path, fix=EXPORT_AGAIN
        ) from None
    return {0: "background"} | classes


def _annotations(
    image: SourceImage, path: Path, classes: Mapping[int, str], ids: Mapping[str, int]
) -> Iterator[SourceAnnotation]:
    values = _pixels(path)
    if values.shape != (image.height, image.width):
        raise ExportError(
            f"the mask has {values.shape[1]} x {values.shape[0]} pixels, but the image has "
            f"{image.width} x {image.height}",
            file=path,
            fix=EXPORT_AGAIN,
        )
    objects = [v for v in _values(values, path) if not _is_background(v, classes, path)]
    try:
        components = connected_components(
            values, objects, max_components=MAX_OBJECTS, max_runs=MAX_RUNS
        )
    except ValueError as error:
        raise ExportError(str(error), file=path, fix=NOT_LABELS) from None
    for value, number, rle in components:
        name = classes[value]
        yield SourceAnnotation(
            image_id=image.id,
            category_id=ids[name],
            place=Place(path, f"component {number} of {name}"),
            bbox=list(rle_bbox_xywh(rle)),
            segmentation=rle,
        )


def _values(pixels: npt.NDArray[Any], path: Path) -> list[int]:
    """The values of a mask, in order."""
    found: set[int] = set()
    rows = max(1, BAND // pixels.shape[1])
    # In bands: finding them sorts a copy of the pixels.
    for start in range(0, len(pixels), rows):
        found |= set(np.unique(pixels[start : start + rows]).tolist())
        if len(found) > MAX_VALUES:
            problem = f"more than {MAX_VALUES} pixel values in one mask"
            raise ExportError(problem, file=path, fix=NOT_LABELS)
    return sorted(map(int, found))


def _is_background(value: int, classes: Mapping[int, str], path: Path) -> bool:
    name = classes.get(value)
    if name is None:
        raise ExportError(
            f"{CLASSES} does not name pixel value {value}", file=path, fix=EXPORT_AGAIN
        )
    return name.casefold() in BACKGROUND


def _pixels(path: Path) -> npt.NDArray[Any]:
    """(height, width) of pixel values."""
    content = read_bytes(path, ExportError, EXPORT_AGAIN, what="image")
    with opened_image(path, ExportError, EXPORT_AGAIN, content=content) as image:
        require_few_scans(content)
        values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind == "f":
        raise ExportError(
            "a color or float image; the pixel values of a mask are classes",
            file=path,
            fix=EXPORT_AGAIN,
        )
    return values
