"""Semantic segmentation: a PNG for each image, whose pixel values are classes.

Such a mask does not separate objects. Where the settings say so, each connected component of
a class is one object; pixels that touch at a corner are connected.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
from segtune.dataset.images import opened_image
from segtune.dataset.masks import mask_to_rle, rle_bbox_xywh
from segtune.exports.split_source import (
    EXPORT_AGAIN,
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

CLASSES = "_classes.csv"
MASK_SUFFIX = "_mask"  # of a file's stem
BACKGROUND = {"background", "unlabeled", "unlabelled"}
CONNECTIVITY = np.ones((3, 3))  # with the diagonal neighbors


def find(root: Path, folders: Mapping[str, Path]) -> dict[str, Reader]:
    """The readers of the splits that have this format."""
    return {s: partial(_read, f) for s, f in folders.items() if (f / CLASSES).is_file()}


def _read(folder: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; each `<image>_mask.png` is beside its image."""
    if not settings.connected_components:
        raise ConfigError(
            "semantic masks do not say where one object ends and the next begins",
            file=folder,
            fix="To make each connected component an object: convert: {connected_components: true}",
        )
    classes = _classes(folder / CLASSES)
    names = [name for name in classes.values() if name.casefold() not in BACKGROUND]
    paths = [path for path in image_files(folder) if not path.stem.endswith(MASK_SUFFIX)]
    images = images_from_files(paths)
    annotations = tuple(a for image in images for a in _annotations(image, classes, names))
    return SplitSource(folder, categories_from_names(names, folder), images, annotations)


def _classes(path: Path) -> dict[int, str]:
    """Pixel value -> class name."""
    rows = [row for row in csv.reader(io.StringIO(read_text(path))) if row]
    try:
        classes = {int(row[0]): row[1].strip() for row in rows[1:]}
    except (IndexError, ValueError):
        raise ExportError(
            "not a table of pixel values and classes", file=path, fix=EXPORT_AGAIN
        ) from None
    return {0: "background"} | classes


def _annotations(
    image: SourceImage, classes: Mapping[int, str], names: list[str]
) -> Iterator[SourceAnnotation]:
    path = image.path.with_name(f"{image.path.stem}{MASK_SUFFIX}.png")
    values = _pixels(path)
    for value in np.unique(values):
        name = classes.get(int(value))
        if name is None:
            raise ExportError(
                f"{CLASSES} does not name pixel value {value}", file=path, fix=EXPORT_AGAIN
            )
        if name.casefold() in BACKGROUND:
            continue
        components, count = ndimage.label(values == value, CONNECTIVITY)
        for number in range(1, count + 1):
            rle = mask_to_rle(components == number)
            yield SourceAnnotation(
                image_id=image.id,
                category_id=names.index(name),
                place=Place(path, f"component {number} of {name}"),
                bbox=list(rle_bbox_xywh(rle)),
                segmentation=rle,
            )


def _pixels(path: Path) -> npt.NDArray[Any]:
    """(height, width) of pixel values."""
    with opened_image(path, ExportError, EXPORT_AGAIN) as image:
        values = np.asarray(image)
    if values.ndim != 2:
        raise ExportError(
            "a color image; the pixel values of a mask are classes", file=path, fix=EXPORT_AGAIN
        )
    return values
