"""Unpacking zip files that may be hostile: every member is checked before any is written."""

import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from segtune.core.errors import ExportError

MAX_UNPACKED_BYTES = 200 * 2**30
MAX_NAME_BYTES = 255  # of common file systems
MAX_COMPRESSION_RATIO = 100  # unpacked to packed size; images and JSON stay far below
MARKER = ".unpacked-by-segtune"  # marks the one folder that may be replaced
JUNK = {"__MACOSX", ".DS_Store", MARKER}
UNSAFE = "Do not use this file; download the export again"


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip file into `folder`, which appears whole or not at all.

    Raises:
        ExportError: when the zip file is damaged or a member is not safe.
    """
    # It may be the user's own, with the only copy of their images in it.
    if folder.exists() and not (folder / MARKER).is_file():
        raise ExportError(
            "the zip file would be unpacked into this folder, which was not created by segtune",
            file=folder,
            fix="Move it away, or write the results to another folder",
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
            (folder / MARKER).touch()
            for member in members:
                opened.extract(member, folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        raise ExportError(
            f"cannot read the zip file ({error})", file=archive, fix="Download it again"
        ) from None


def _safe_members(opened: zipfile.ZipFile, archive: Path) -> Iterator[zipfile.ZipInfo]:
    seen: set[str] = set()
    infos = opened.infolist()
    if sum(info.file_size for info in infos) > MAX_UNPACKED_BYTES:
        raise ExportError(
            f"unpacks to more than {MAX_UNPACKED_BYTES} bytes", file=archive, fix=UNSAFE
        )
    for info in infos:
        problem = _danger(info)
        # Normalized: "./a" and "a" are unpacked to one file.
        place = PurePosixPath(info.filename).as_posix().casefold()
        if place in seen:
            problem = "is a duplicate"
        if problem:
            raise ExportError(
                f"{problem}; nothing was unpacked",
                file=archive,
                record=f"member {info.filename!r}",
                fix=UNSAFE,
            )
        seen.add(place)
    return (i for i in infos if not i.is_dir() and not is_junk(PurePosixPath(i.filename)))


def path_danger(name: str) -> str | None:
    """Why a path from an export must not be followed; None where it may be."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or (len(name) > 1 and name[1] == ":"):
        return "has an absolute path"
    if any(len(part.encode()) > MAX_NAME_BYTES for part in path.parts):
        return "has a name that is too long"
    return "leaves the folder" if ".." in path.parts else None


def _danger(info: zipfile.ZipInfo) -> str | None:
    if problem := path_danger(info.filename):
        return problem
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or another special file"
    if info.file_size > MAX_COMPRESSION_RATIO * max(info.compress_size, 1):
        return f"unpacks to more than {MAX_COMPRESSION_RATIO} times its size"
    return None


def is_junk(path: PurePosixPath) -> bool:
    """Whether a path belongs to the files that operating systems leave behind."""
    return any(part in JUNK or part.startswith("._") for part in path.parts)
