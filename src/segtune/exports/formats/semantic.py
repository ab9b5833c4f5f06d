"""Semantic segmentation: a PNG for each image, whose pixel values are classes.

Such a mask does not separate objects. Where the settings say so, each connected component of
a class is one object; pixels that touch at a corner are connected.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
from segtune.dataset.images import opened_image
from segtune.dataset.masks import Rle, rle_bbox_xywh, segmentation_to_rle
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
NOT_LABELS = "This is noise, not labels: export the mask as PNG, without smoothing or compression"
CONNECTIVITY = np.ones((3, 3))  # with the diagonal neighbors


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
    ids = {name: names.index(name) for name in names}
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
    found = [int(value) for value in np.unique(values)]
    if len(found) > MAX_VALUES:
        raise ExportError(f"{len(found)} pixel values in one mask", file=path, fix=NOT_LABELS)
    left = MAX_OBJECTS
    for value in found:
        name = classes.get(value)
        if name is None:
            raise ExportError(
                f"{CLASSES} does not name pixel value {value}", file=path, fix=EXPORT_AGAIN
            )
        if name.casefold() in BACKGROUND:
            continue
        components, count = ndimage.label(values == value, CONNECTIVITY)
        left -= count
        if left < 0:
            raise ExportError(
                f"more than {MAX_OBJECTS} connected components", file=path, fix=NOT_LABELS
            )
        for number, rle in enumerate(component_rles(components, count), start=1):
            yield SourceAnnotation(
                image_id=image.id,
                category_id=ids[name],
                place=Place(path, f"component {number} of {name}"),
                bbox=list(rle_bbox_xywh(rle)),
                segmentation=rle,
            )


def component_rles(components: npt.NDArray[np.int32], count: int) -> Iterator[Rle]:
    """The RLE of each component, in time that does not grow with their number.

    Args:
        components: (height, width), 0 for the background and 1 to `count` for the components.
        count: components.
    """
    height, width = components.shape
    flat = components.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=-1))
    ends = np.append(starts[1:], flat.size)
    labels = flat[starts]
    order = np.argsort(labels, kind="stable")
    # Of component k, the runs lie at places[k] to places[k + 1] of the order.
    places = np.searchsorted(labels[order], np.arange(1, count + 2))
    for first, last in pairwise(places):
        runs = order[first:last]
        edges = np.stack([starts[runs], ends[runs]], 1).ravel()
        counts = np.diff(edges, prepend=0, append=flat.size)
        if counts[-1] == 0:
            counts = counts[:-1]
        yield segmentation_to_rle(
            {"size": [height, width], "counts": counts.tolist()}, height, width
        )


def _pixels(path: Path) -> npt.NDArray[Any]:
    """(height, width) of pixel values."""
    with opened_image(path, ExportError, EXPORT_AGAIN) as image:
        values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind == "f":
        raise ExportError(
            "a color or float image; the pixel values of a mask are classes",
            file=path,
            fix=EXPORT_AGAIN,
        )
    return values
