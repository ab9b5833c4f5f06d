"""Reading Roboflow exports: where the splits, annotations and pictures of an export lie.

Folders and zips of the COCO and COCO-segmentation formats are read; any other format is
recognised and refused by name. A zip's members are all checked before the first is written.
"""

import json
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from segtune.errors import ExportError

SPLITS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
ANNOTATIONS = "_annotations.coco.json"
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
WANTED = "Export the dataset from Roboflow as COCO or COCO Segmentation"
OTHER_FORMATS = {
    "data.yaml": "YOLO",
    "_annotations.createml.json": "CreateML",
    "_annotations.csv": "TensorFlow CSV",
    "_classes.csv": "semantic segmentation masks",
}
LARGEST_ZIP = 200 * 2**30  # bytes, unpacked
LONGEST_NAME = 255  # bytes, of common file systems
LARGEST_RATIO = 100  # of unpacked and packed size; pictures and JSON stay far below
UNPACKED = ".unpacked-by-segtune"  # marks the one folder that may be replaced
JUNK = {"__MACOSX", ".DS_Store", UNPACKED}


@dataclass(frozen=True)
class SplitSource:
    """One split of an export, as it lies on the disk."""

    annotations: Path  # the COCO JSON
    values: dict[str, Any]  # what it holds
    images: dict[str, Path]  # file name in the JSON -> picture


def read_export(export: Path, unpacked: Path) -> tuple[Path, dict[str, SplitSource]]:
    """Find the three splits of an export.

    Args:
        export: a folder, or a zip.
        unpacked: where a zip is unpacked to; a folder is read where it lies.

    Returns:
        The folder that all pictures are in, and the splits "train", "valid" and "test".

    Raises:
        ExportError: when it is no COCO export, lacks a split, or the zip is not safe.
    """
    if not export.exists():
        raise ExportError("no such file or folder", file=export, remedy="Check `export`")
    root = export.resolve()
    if export.is_file():
        root = _unpack(export, unpacked)
    root = _descend(root)
    return root, {name: _split(root, name, export) for name in SPLITS}


def _descend(root: Path) -> Path:
    # A zip made by hand often holds one folder, and the export in it.
    inside = [path for path in root.iterdir() if not _is_junk(PurePosixPath(path.name))]
    if len(inside) == 1 and inside[0].is_dir() and inside[0].name not in _split_names():
        return _descend(inside[0])
    return root


def _split_names() -> set[str]:
    return {name for names in SPLITS.values() for name in names}


def _split(root: Path, name: str, export: Path) -> SplitSource:
    folders = [root / candidate for candidate in SPLITS[name] if (root / candidate).is_dir()]
    if len(folders) > 1:
        raise ExportError(f"both {folders[0].name}/ and {folders[1].name}/ exist", file=export)
    annotations = _annotation_file(folders[0]) if folders else None
    if annotations is None:
        raise _refusal(root, name, export)
    values = read_coco(annotations)
    return SplitSource(annotations, values, _images(annotations, values))


def _refusal(root: Path, name: str, export: Path) -> ExportError:
    files = [path for path in root.rglob("*") if path.is_file() and not _is_junk_below(path, root)]
    if not files:
        return ExportError("nothing is in it", file=export, remedy=WANTED)
    # COCO first: some owners add a data.yaml to a COCO export.
    if not any(_annotation_file(root / folder) for folder in _split_names()):
        found = _other_formats(files)
        problem = f"a {' or '.join(found)} export" if found else "no COCO export"
        return ExportError(f"this is {problem}", file=export, remedy=WANTED)
    return ExportError(
        f"there is no {name} split ({' or '.join(f'{n}/' for n in SPLITS[name])} with "
        f"{ANNOTATIONS})",
        file=export,
        remedy="Split the dataset into train, valid and test in Roboflow and export it again",
    )


def _other_formats(files: list[Path]) -> list[str]:
    found = {OTHER_FORMATS[path.name] for path in files if path.name in OTHER_FORMATS}
    if any(path.suffix.lower() == ".xml" for path in files):
        found.add("Pascal VOC")
    return sorted(found)


def _annotation_file(folder: Path) -> Path | None:
    if (folder / ANNOTATIONS).is_file():
        return folder / ANNOTATIONS
    others = [
        path
        for path in sorted(folder.glob("*.json"))
        if not path.name.startswith(("._", "_annotations.createml"))
    ]
    if len(others) > 1:
        names = ", ".join([*(path.name for path in others[:3]), *(["…"] if others[3:] else [])])
        raise ExportError(
            f"{len(others)} JSON files: {names}",
            file=folder,
            remedy=f"Keep the one of the whole split. {WANTED}",
        )
    return others[0] if others else None


def read_coco(path: Path) -> dict[str, Any]:
    """Read a COCO JSON and check the shape of its three tables.

    Raises:
        ExportError: when it is no JSON, a table is missing or holds no records, or an id of
            a category or of what an annotation refers to is no whole number.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"no readable JSON ({error})", file=path, remedy=WANTED) from None
    for table in ("images", "annotations", "categories"):
        records = values.get(table) if isinstance(values, dict) else None
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            raise ExportError(f"no table {table!r} of records", file=path, remedy=WANTED)
    for record in values["categories"]:
        _require_whole(record, ("id",), "category", path)
    for record in values["annotations"]:
        _require_whole(record, ("image_id", "category_id"), "annotation", path)
    _require_distinct_ids(values["categories"], path)
    return dict(values)


def _require_whole(record: dict[str, Any], keys: tuple[str, ...], kind: str, path: Path) -> None:
    for key in keys:
        if not isinstance(record.get(key), int):
            raise ExportError(
                f"{key} {record.get(key)!r} is no whole number",
                file=path,
                record=f"{kind} {record.get('id')}",
                remedy="Export the dataset again",
            )


def _require_distinct_ids(categories: list[dict[str, Any]], path: Path) -> None:
    names: dict[int, Any] = {}
    for record in categories:
        if record["id"] in names:
            raise ExportError(
                f"{names[record['id']]!r} and {record.get('name')!r} have one id, so nobody "
                "can tell their objects apart",
                file=path,
                record=f"category {record['id']}",
                remedy="Export the dataset again",
            )
        names[record["id"]] = record.get("name")


def _images(annotations: Path, values: dict[str, Any]) -> dict[str, Path]:
    """Pictures lie beside the JSON; some owners move them to `images/`."""
    folder, found = annotations.parent, {}
    for record in values["images"]:
        name = record.get("file_name")
        if not isinstance(name, str) or _danger_of(name):
            raise ExportError(
                f"file_name {name!r} is no name below the split",
                file=annotations,
                record=f"image {record.get('id')}",
            )
        places = [folder / name, folder / "images" / name]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise ExportError(
                f"the picture {name} is neither beside it nor in images/",
                file=annotations,
                record=f"image {record.get('id')}",
                remedy="Export the dataset again, with its pictures",
            )
        found[name] = path
    return found


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip into `folder`, which appears whole or not at all."""
    # It may be the user's own, with the only copy of their pictures in it.
    if folder.exists() and not (folder / UNPACKED).is_file():
        raise ExportError(
            "the zip would be unpacked here, but this exists and is not segtune's",
            file=folder,
            remedy="Move it away, or write the results to another folder",
        )
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        _extract(archive, partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder.resolve()


def _extract(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = list(_safe_members(opened, archive))
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / UNPACKED).touch()
            for member in members:
                opened.extract(member, folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        raise ExportError(
            f"no readable zip ({error})", file=archive, remedy="Download it again"
        ) from None


def _safe_members(opened: zipfile.ZipFile, archive: Path) -> Iterator[zipfile.ZipInfo]:
    seen: set[str] = set()
    infos = opened.infolist()
    if sum(info.file_size for info in infos) > LARGEST_ZIP:
        raise ExportError(f"unpacks to more than {LARGEST_ZIP} bytes", file=archive)
    for info in infos:
        problem = _danger(info)
        # Normalised: "./a" and "a" are unpacked to one file.
        place = PurePosixPath(info.filename).as_posix().casefold()
        if place in seen:
            problem = "is there twice"
        if problem:
            raise ExportError(
                f"{problem}; nothing was unpacked",
                file=archive,
                record=f"member {info.filename!r}",
                remedy="Do not use this file; download the export again",
            )
        seen.add(place)
    return (i for i in infos if not i.is_dir() and not _is_junk(PurePosixPath(i.filename)))


def _danger_of(name: str) -> str | None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or (len(name) > 1 and name[1] == ":"):
        return "has an absolute path"
    if any(len(part.encode()) > LONGEST_NAME for part in path.parts):
        return "has too long a name"
    return "leaves the folder" if ".." in path.parts else None


def _danger(info: zipfile.ZipInfo) -> str | None:
    if problem := _danger_of(info.filename):
        return problem
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or no plain file"
    if info.file_size > LARGEST_RATIO * max(info.compress_size, 1):
        return f"unpacks to more than {LARGEST_RATIO} times its size"
    return None


def _is_junk(path: PurePosixPath) -> bool:
    return any(part in JUNK or part.startswith("._") for part in path.parts)


def _is_junk_below(path: Path, root: Path) -> bool:
    return _is_junk(PurePosixPath(path.relative_to(root).as_posix()))
