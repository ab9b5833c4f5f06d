"""Semantic segmentation: a PNG for each image, whose pixel values are classes.

Such a mask knows no objects. Where the settings say so, each connected area of a class is
taken for one; areas that touch at a corner are connected.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage
from scipy import ndimage

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
from segtune.dataset.masks import mask_to_rle, rle_bbox_xywh
from segtune.exports.split_source import SplitSource, build_split, images_in, read_text

CLASSES = "_classes.csv"
ENDING = "_mask"
GROUND = {"background", "unlabeled", "unlabelled"}
CONNECTED = np.ones((3, 3))  # corners count


def present(root: Path, folder: Path) -> bool:
    """Whether a split's folder holds this format."""
    return (folder / CLASSES).is_file()


def read(root: Path, folder: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; each `<image>_mask.png` lies beside its image."""
    if not settings.connected_components:
        raise ConfigError(
            "semantic masks do not say where one object ends and the next begins",
            file=folder,
            fix="To take each connected area for one: convert: {connected_components: true}",
        )
    classes = _classes(folder / CLASSES)
    names = [name for name in classes.values() if name.casefold() not in GROUND]
    everything = images_in(folder)
    images = [path for path in everything if not path.stem.endswith(ENDING)]
    objects = (o for image in images for o in _objects(image, classes, names))
    return build_split(folder, images, names, objects)


def _classes(path: Path) -> dict[int, str]:
    """Pixel value -> class name."""
    rows = [row for row in csv.reader(io.StringIO(read_text(path))) if row]
    try:
        classes = {int(row[0]): row[1].strip() for row in rows[1:]}
    except (IndexError, ValueError):
        raise ExportError(
            "no table of pixel values and classes", file=path, fix="Export the dataset again"
        ) from None
    return {0: "background"} | classes


def _objects(image: Path, classes: dict[int, str], names: list[str]) -> Iterator[dict[str, Any]]:
    path = image.with_name(f"{image.stem}{ENDING}.png")
    values = _pixels(path)
    for value in np.unique(values):
        name = classes.get(int(value))
        if name is None:
            raise ExportError(f"pixel value {value}, which {CLASSES} does not name", file=path)
        if name.casefold() in GROUND:
            continue
        areas, count = ndimage.label(values == value, CONNECTED)
        for number in range(1, count + 1):
            rle = mask_to_rle(areas == number)
            yield {
                "image": image.name,
                "category_id": names.index(name),
                "place": (path, f"area {number} of {name}"),
                "bbox": list(rle_bbox_xywh(rle)),
                "segmentation": rle,
            }


def _pixels(path: Path) -> npt.NDArray[Any]:
    """(height, width) of pixel values."""
    try:
        with PilImage.open(path) as image:
            values = np.asarray(image)
    except (OSError, ValueError, PilImage.DecompressionBombError) as error:
        raise ExportError(
            f"no readable mask ({error})", file=path, fix="Export the dataset again"
        ) from None
    if values.ndim != 2:
        raise ExportError("a mask in color; its values should be classes", file=path)
    return values
