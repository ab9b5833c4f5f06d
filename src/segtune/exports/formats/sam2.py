"""SAM 2: a JSON for each image, with its masks as RLE and without a class."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
from segtune.exports.split_source import SplitSource, build_split, images_in, read_text


def present(root: Path, folder: Path) -> bool:
    """Whether a split's folder holds this format."""
    return any(_is_one_image(path) for path in _files(folder)[:1])


def read(root: Path, folder: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; the images lie beside the files and have their names."""
    if not settings.class_name.strip():
        raise ConfigError(
            "a SAM 2 export names no class",
            file=folder,
            fix='Say what its masks show: convert: {class_name: "some words"}',
        )
    images = images_in(folder)
    by_stem = {path.stem: path for path in images}
    objects = (found for path in _files(folder) for found in _objects(path, by_stem))
    return build_split(folder, images, [settings.class_name], objects)


def _files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.glob("*.json")) if not p.name.startswith(("._", "_anno"))]


def _is_one_image(path: Path) -> bool:
    try:
        values = json.loads(read_text(path))
    except (ValueError, ExportError):
        return False
    return isinstance(values, dict) and isinstance(values.get("image"), dict)


def _objects(path: Path, images: dict[str, Path]) -> Iterator[dict[str, Any]]:
    try:
        values = json.loads(read_text(path))
        stem = Path(values["image"]["file_name"]).stem
        image = images[stem if stem in images else path.stem]
        for number, found in enumerate(values["annotations"], start=1):
            yield {
                "image": image.name,
                "category_id": 0,
                "place": (path, f"annotation {found.get('id', number)}"),
                "bbox": found["bbox"],
                "segmentation": found["segmentation"],
            }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"no JSON of an image that is beside it ({error!r})",
            file=path,
            fix="Export the dataset again, with its images",
        ) from None
