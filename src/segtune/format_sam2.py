"""SAM 2: a JSON for each picture, with its masks as RLE and without a class."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segtune.config import ConvertSettings
from segtune.errors import ConfigError, ExportError
from segtune.sources import SplitSource, assembled, pictures_in, read_text


def present(root: Path, folder: Path) -> bool:
    """Whether a split's folder holds this format."""
    return any(_is_one_picture(path) for path in _files(folder)[:1])


def read(root: Path, folder: Path, settings: ConvertSettings) -> SplitSource:
    """Read one split; the pictures lie beside the files and have their names."""
    if not settings.class_name.strip():
        raise ConfigError(
            "a SAM 2 export names no class",
            file=folder,
            remedy='Say what its masks show: convert: {class_name: "some words"}',
        )
    pictures = pictures_in(folder)
    by_stem = {path.stem: path for path in pictures}
    objects = (found for path in _files(folder) for found in _objects(path, by_stem))
    return assembled(folder, pictures, [settings.class_name], objects)


def _files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.glob("*.json")) if not p.name.startswith(("._", "_anno"))]


def _is_one_picture(path: Path) -> bool:
    try:
        values = json.loads(read_text(path))
    except (ValueError, ExportError):
        return False
    return isinstance(values, dict) and isinstance(values.get("image"), dict)


def _objects(path: Path, pictures: dict[str, Path]) -> Iterator[dict[str, Any]]:
    try:
        values = json.loads(read_text(path))
        stem = Path(values["image"]["file_name"]).stem
        picture = pictures[stem if stem in pictures else path.stem]
        for number, found in enumerate(values["annotations"], start=1):
            yield {
                "picture": picture.name,
                "category_id": 0,
                "place": (path, f"annotation {found.get('id', number)}"),
                "bbox": found["bbox"],
                "segmentation": found["segmentation"],
            }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"no JSON of a picture that is beside it ({error!r})",
            file=path,
            remedy="Export the dataset again, with its pictures",
        ) from None
