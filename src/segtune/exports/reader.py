"""Reading Roboflow exports: where an export's splits are, and which format they have.

A format is one module with `find`, and one line in FORMATS.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
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
    if not export.exists():
        raise ExportError("no such file or folder", file=export, fix="Check `export`")
    root = _descend(unpack(export, unpacked) if export.is_file() else export.resolve())
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
    return Export(root, name, {split: readers[split](settings) for split in folders})


def _descend(root: Path) -> Path:
    # A zip file made by hand often contains one folder with the export in it.
    inside = [path for path in root.iterdir() if not is_junk(PurePosixPath(path.name))]
    names = {name for names in SPLIT_FOLDERS.values() for name in names}
    if len(inside) == 1 and inside[0].is_dir() and inside[0].name not in names:
        return _descend(inside[0])
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
