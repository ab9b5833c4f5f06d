"""SAM 2: a JSON for each image, with its masks as RLE and without a class."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError, shown
from segtune.core.foreign import reason
from segtune.exports.annotations import parse_number
from segtune.exports.files import image_files, mentions, other_jsons
from segtune.exports.parsing import read_json
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
    annotations: list[SourceAnnotation] = []
    labels: dict[int, Path] = {}  # by image
    for path in paths:
        values = first if path == paths[0] else read_json(path)
        image = _image(values, path, by_stem)
        twin = labels.setdefault(image.id, path)
        if twin is not path:
            raise ExportError(
                f"{twin.name} and {path.name} are both labels of {image.file_name}",
                file=folder,
                fix="Remove one of them",
            )
        annotations += _annotations(path, values, image)
    categories = categories_from_names([settings.class_name], folder)
    return SplitSource(folder, categories, images, tuple(annotations))


def _parse_or_none(path: Path) -> Any:
    try:
        return read_json(path)
    except ExportError:
        return None


def _image(values: Any, path: Path, images: Mapping[str, SourceImage]) -> SourceImage:
    try:
        record = values["image"]
        stem = Path(record["file_name"]).stem
        image = images[stem if stem in images else path.stem]
        stated = record.get("width", image.width), record.get("height", image.height)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _not_labels(path, error) from None
    place = Place(path, "image")
    width, height = (parse_number(side, place) for side in stated)
    require_size((width, height), image, place)
    return image


def _annotations(path: Path, values: Any, image: SourceImage) -> Iterator[SourceAnnotation]:
    try:
        for number, found in enumerate(values["annotations"], start=1):
            yield SourceAnnotation(
                image_id=image.id,
                category_id=0,
                place=Place(path, f"annotation {shown(found.get('id', number))}"),
                bbox=found["bbox"],
                segmentation=found["segmentation"],
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_labels(path, error) from None


def _not_labels(path: Path, error: Exception) -> ExportError:
    problem = f"{type(error).__name__}: {reason(error)}"
    return ExportError(
        f"not the JSON of an image in the same folder ({problem})", file=path, fix=EXPORT_IMAGES
    )
