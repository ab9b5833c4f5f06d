"""Reading Roboflow exports: where an export's splits are, and which format they have.

A format is one module with `find`, and one line in FORMATS.
"""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
from segtune.core.foreign import file_problem, read_bytes, reason
from segtune.exports.archive import is_junk, unpack
from segtune.exports.formats import coco, createml, sam2, semantic, tensorflow, voc, yolo
from segtune.exports.split_source import Reader, SplitSource


class Format(Protocol):
    """A module that reads one format."""

    def find(self, root: Path, folders: Mapping[str, Path]) -> dict[str, Reader]:
        """The readers of those splits that have this format.

        Args:
            root: folder of the export.
            folders: per split.
        """
        ...


FORMATS: Mapping[str, Format] = {
    "coco": coco,
    "yolo": yolo,
    "voc": voc,
    "createml": createml,
    "tensorflow": tensorflow,
    "sam2": sam2,
    "semantic": semantic,
}
SPLIT_FOLDERS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
MAX_DEPTH = 20  # folders around an export
EXPORT_IT = "Export the dataset from Roboflow, preferably as COCO Segmentation"


@dataclass(frozen=True)
class Export:
    """An export's splits; those that it does not have are missing."""

    root: Path  # the folder that contains all images
    format: str
    splits: dict[str, SplitSource]


def read_export(export: Path, unpacked: Path, settings: ConvertSettings) -> Export:
    """Find and read the splits of an export.

    Args:
        export: a folder or a zip file.
        unpacked: where a zip file is unpacked to; a folder is read in place.
        settings: the format, and choices that single formats need.

    Raises:
        ExportError: when it is not an export, has no training split, or the zip file is not
            safe.
        ConfigError: when the settings must decide something first.
    """
    opened = _opened(export, unpacked)
    try:
        return _read_splits(_descend(opened), export, settings)
    except (OSError, MemoryError) as error:
        raise ExportError(
            f"cannot be read ({reason(error)})",
            file=getattr(error, "filename", None) or export,
            fix="Check the files of the export and their permissions",
        ) from None


def _opened(export: Path, unpacked: Path) -> Path:
    """The folder of an export, once it is unpacked."""
    try:
        if export.is_dir():
            return export.resolve()
        problem = file_problem(export)
    except OSError as error:  # a path that is too long, or in a folder that may not be entered
        problem = reason(error)
    if problem:
        raise ExportError(
            "no such file or folder" if problem == os.strerror(errno.ENOENT) else problem,
            file=export,
            fix="Check `export`",
        )
    return unpack(export, unpacked)


def _read_splits(root: Path, export: Path, settings: ConvertSettings) -> Export:
    folders = _split_folders(root, export)
    name, readers = _choose_format(root, folders, settings.format, export)
    for split, folder in folders.items():
        # A folder that nothing reads would silently be missing from the scores.
        if split not in readers:
            raise ExportError(
                f"contains no {name} annotations, so the split would be missing",
                file=folder,
                fix="Add them, or remove the folder",
            )
    if "train" not in folders:
        raise ExportError("contains no train split", file=root, fix=EXPORT_IT)
    splits = {split: readers[split](settings) for split in folders}
    for split, source in splits.items():
        # A COCO file lists its annotations: an empty list says that there are none.
        if name != "coco":
            _require_objects(split, source)
    return Export(root, name, splits)


def _require_objects(split: str, source: SplitSource) -> None:
    """Labels of which nothing is read were written in a way that the reader does not see."""
    if source.images and not source.annotations and _has_labels(source.path):
        raise ExportError(
            f"the {split} split has {len(source.images)} images and labels, but no objects",
            file=source.path,
            fix="Check that the labels are of this format, or remove the split",
        )


def _has_labels(path: Path) -> bool:
    """Whether a file, or any in a folder, has content: an empty file says "no objects" in YOLO."""
    files = [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file())
    return any(
        not is_junk(PurePosixPath(file.name))
        and bool(read_bytes(file, ExportError, "Check the file", what="labels").strip())
        for file in files
    )


def _descend(root: Path) -> Path:
    # A zip file made by hand often contains one folder with the export in it.
    names = {name for names in SPLIT_FOLDERS.values() for name in names}
    for _ in range(MAX_DEPTH):
        inside = [path for path in root.iterdir() if not is_junk(PurePosixPath(path.name))]
        if len(inside) != 1 or not inside[0].is_dir() or inside[0].name in names:
            break
        root = inside[0]
    return root


def _split_folders(root: Path, export: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split, names in SPLIT_FOLDERS.items():
        folders = [root / name for name in names if (root / name).is_dir()]
        if len(folders) > 1:
            raise ExportError(
                f"both {folders[0].name}/ and {folders[1].name}/ exist",
                file=export,
                fix="Merge them, or remove one",
            )
        if folders:
            found[split] = folders[0]
    if not found:
        missing = "no train/, valid/ or test/ folder" if any(root.iterdir()) else "no files"
        raise ExportError(f"contains {missing}", file=export, fix=EXPORT_IT)
    return found


def _choose_format(
    root: Path, folders: Mapping[str, Path], chosen: str, export: Path
) -> tuple[str, dict[str, Reader]]:
    """The format that most splits have; if several tie, the settings must choose."""
    if chosen != "auto":
        return chosen, FORMATS[chosen].find(root, folders)
    found = {name: kind.find(root, folders) for name, kind in FORMATS.items()}
    most = max(map(len, found.values()))
    if not most:
        raise ExportError("contains no annotations of a known format", file=export, fix=EXPORT_IT)
    candidates = [name for name, readers in found.items() if len(readers) == most]
    if len(candidates) > 1:
        raise ConfigError(
            f"contains annotations in the formats {' and '.join(candidates)}",
            file=export,
            fix=f"Choose one: convert: {{format: {candidates[0]}}}",
        )
    return candidates[0], found[candidates[0]]
