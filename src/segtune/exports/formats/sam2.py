"""SAM 2: a JSON for each image, with its masks as RLE and without a class."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
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
    mentions,
    other_jsons,
    read_text,
)


def find(root: Path, folders: Mapping[str, Path]) -> dict[str, Reader]:
    """The readers of the splits that have this format, by their first JSON."""
    readers: dict[str, Reader] = {}
    for split, folder in folders.items():
        paths = other_jsons(folder)
        # One large JSON of another format is not worth parsing.
        if paths and mentions(paths[0], b'"image"'):
            first = _parse_or_none(paths[0])
            if isinstance(first, dict) and isinstance(first.get("image"), dict):
                readers[split] = partial(_read, folder, paths, first)
    return readers


def _read(
    folder: Path, paths: Sequence[Path], first: dict[str, Any], settings: ConvertSettings
) -> SplitSource:
    """Read one split; each image is beside its JSON and has its name."""
    if not settings.class_name.strip():
        raise ConfigError(
            "a SAM 2 export has no class names",
            file=folder,
            fix='Name what its masks show: convert: {class_name: "some words"}',
        )
    images = images_from_files(image_files(folder))
    by_stem = {image.path.stem: image for image in images}
    annotations = [*_annotations(paths[0], first, by_stem)]
    for path in paths[1:]:
        annotations += _annotations(path, _parse(path), by_stem)
    categories = categories_from_names([settings.class_name], folder)
    return SplitSource(folder, categories, images, tuple(annotations))


def _parse(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ExportError(f"cannot read the JSON ({error})", file=path, fix=EXPORT_AGAIN) from None


def _parse_or_none(path: Path) -> Any:
    try:
        return _parse(path)
    except ExportError:
        return None


def _annotations(
    path: Path, values: Any, images: Mapping[str, SourceImage]
) -> Iterator[SourceAnnotation]:
    try:
        stem = Path(values["image"]["file_name"]).stem
        image = images[stem if stem in images else path.stem]
        for number, found in enumerate(values["annotations"], start=1):
            yield SourceAnnotation(
                image_id=image.id,
                category_id=0,
                place=Place(path, f"annotation {found.get('id', number)}"),
                bbox=found["bbox"],
                segmentation=found["segmentation"],
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"not the JSON of an image in the same folder ({error!r})", file=path, fix=EXPORT_IMAGES
        ) from None
