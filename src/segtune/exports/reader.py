"""Reading Roboflow exports: where an export's splits lie, and which format they have.

A format is one file with `present` and `read`, and one line in FORMATS.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
from segtune.exports.archive import is_junk, unpack
from segtune.exports.formats import coco, createml, sam2, semantic, tensorflow, voc, yolo
from segtune.exports.split_source import SplitSource


class Format(Protocol):
    """What a reader offers; `root` is the export's folder, `folder` the split's."""

    def present(self, root: Path, folder: Path) -> bool: ...

    def read(self, root: Path, folder: Path, settings: ConvertSettings) -> SplitSource: ...


FORMATS: Mapping[str, Format] = {
    "coco": coco,
    "yolo": yolo,
    "voc": voc,
    "createml": createml,
    "tensorflow": tensorflow,
    "sam2": sam2,
    "semantic": semantic,
}
SPLITS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
WANTED = "Export the dataset from Roboflow, as COCO Segmentation if you can choose"


@dataclass(frozen=True)
class Export:
    """An export's splits; those that it does not have are missing."""

    root: Path  # the folder that all images are in
    format: str
    splits: dict[str, SplitSource]


def read_export(export: Path, unpacked: Path, settings: ConvertSettings) -> Export:
    """Find and read the splits of an export.

    Args:
        export: a folder, or a zip.
        unpacked: where a zip is unpacked to; a folder is read where it lies.
        settings: the format, and what single formats leave open.

    Raises:
        ExportError: when it is no export, has no training split, or the zip is not safe.
        ConfigError: when the settings must say something first.
    """
    if not export.exists():
        raise ExportError("no such file or folder", file=export, fix="Check `export`")
    root = _descend(unpack(export, unpacked) if export.is_file() else export.resolve())
    folders = _split_folders(root, export)
    name = _format(root, folders, settings, export)
    _require_annotations(root, folders, name)
    reader = FORMATS[name]
    splits = {split: reader.read(root, folder, settings) for split, folder in folders.items()}
    return Export(root, name, splits)


def _descend(root: Path) -> Path:
    # A zip made by hand often holds one folder, and the export in it.
    inside = [path for path in root.iterdir() if not is_junk(PurePosixPath(path.name))]
    names = {name for names in SPLITS.values() for name in names}
    if len(inside) == 1 and inside[0].is_dir() and inside[0].name not in names:
        return _descend(inside[0])
    return root


def _split_folders(root: Path, export: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split, names in SPLITS.items():
        folders = [root / name for name in names if (root / name).is_dir()]
        if len(folders) > 1:
            raise ExportError(f"both {folders[0].name}/ and {folders[1].name}/ exist", file=export)
        if folders:
            found[split] = folders[0]
    if not found:
        problem = "no train/, valid/ and test/" if any(root.iterdir()) else "nothing"
        raise ExportError(f"there is {problem} in it", file=export, fix=WANTED)
    return found


def _format(
    root: Path, folders: Mapping[str, Path], settings: ConvertSettings, export: Path
) -> str:
    """The format that most splits have; of several, the settings must choose."""
    having = {
        name: [split for split, folder in folders.items() if kind.present(root, folder)]
        for name, kind in FORMATS.items()
    }
    if settings.format != "auto":
        return settings.format
    most = max(map(len, having.values()))
    candidates = [name for name, splits in having.items() if splits and len(splits) == most]
    if not candidates:
        raise ExportError("no annotations of a known format in it", file=export, fix=WANTED)
    if len(candidates) > 1:
        raise ConfigError(
            f"annotations in the formats {' and '.join(candidates)}",
            file=export,
            fix=f"Say which to read: convert: {{format: {candidates[0]}}}",
        )
    return candidates[0]


def _require_annotations(root: Path, folders: Mapping[str, Path], name: str) -> None:
    """A folder that nobody read would be missing from the scores without a word."""
    for folder in folders.values():
        if not FORMATS[name].present(root, folder):
            raise ExportError(
                f"no annotations as {name} in it, though other splits have them",
                file=folder,
                fix="Add them, or remove the folder",
            )
    if "train" not in folders:
        raise ExportError("there is no train split in it", file=root, fix=WANTED)
