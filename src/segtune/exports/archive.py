"""Unpacking zip files that may be hostile: every member is checked before any is written."""

import shutil
import stat
import zipfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

from segtune.core.atomic import disk_problems
from segtune.core.errors import ExportError, ResourceError, shown
from segtune.core.foreign import reason
from segtune.exports.split_source import has_control_characters

MAX_UNPACKED_BYTES = 200 * 2**30
# Blank masks and text shrink to a thousandth: sizes up to these pass at any ratio.
MAX_PACKED_TIGHTLY = 4 * 2**30  # bytes, unpacked, of all members together
MAX_MEMBER_PACKED_TIGHTLY = 2**29  # bytes, unpacked, of one member
MAX_COMPRESSION_RATIO = 100  # unpacked to packed size, of what is larger
MAX_NAME_BYTES = 255  # of common file systems
MAX_PATH_BYTES = 1024
HEADER_BYTES = 30  # in front of each member, without its name
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
ENCRYPTED = 1  # flag of a member
BLOCK = 2**20  # bytes
MARKER = ".unpacked-by-segtune"  # marks the one folder that may be replaced
ICON = "Icon\r"  # of a folder on macOS: the one honest name with a control character
JUNK = {"__MACOSX", ".DS_Store", ICON, MARKER}
UNSAFE = "Do not use this file; download the export again"
IS_ENCRYPTED = "is encrypted"
IS_PACKED_OTHERWISE = "is neither stored nor packed with deflate"
PACK_AGAIN = "Unpack it yourself and set `export` to the folder"


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip file into `folder`, which appears whole or not at all.

    Raises:
        ExportError: when the zip file is damaged or a member is not safe.
        ResourceError: when the disk is too small or cannot be written to.
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
        with disk_problems(folder):
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder.resolve()


def _extract(archive: Path, folder: Path) -> None:
    try:
        opened = zipfile.ZipFile(archive)
    # Foreign bytes: zipfile lets errors of struct, of text and of numbers through.
    except Exception as error:
        raise _damaged(archive, error) from None
    with opened:
        members = _safe_members(opened, archive, folder)
        shutil.rmtree(folder, ignore_errors=True)
        with disk_problems(folder):
            folder.mkdir(parents=True)
            (folder / MARKER).touch()
        for member in members:
            _write(opened, member, folder / PurePosixPath(member.filename), archive)


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, archive: Path) -> None:
    with disk_problems(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for block in _blocks(opened, info, archive):
                file.write(block)


def _blocks(opened: zipfile.ZipFile, info: zipfile.ZipInfo, archive: Path) -> Iterator[bytes]:
    """The content of a member; what reading raises is about the archive, not the disk."""
    try:
        with opened.open(info) as member:
            while block := member.read(BLOCK):
                yield block
    # Foreign bytes: of decompressors too. The one who writes does not raise in here.
    except Exception as error:
        raise _damaged(archive, error, f"member {shown(info.filename)}") from None


def _damaged(archive: Path, error: Exception, record: str | None = None) -> ExportError:
    return ExportError(
        f"cannot read the zip file ({reason(error)})",
        file=archive,
        record=record,
        fix="Download it again",
    )


def _safe_members(opened: zipfile.ZipFile, archive: Path, folder: Path) -> list[zipfile.ZipInfo]:
    infos = opened.infolist()
    _require_space(infos, archive, folder)
    _require_apart(infos, opened.start_dir, archive)
    seen: set[str] = set()
    for info in infos:
        problem = _danger(info)
        # Normalized: "./a" and "a" are unpacked to one file.
        place = PurePosixPath(info.filename).as_posix().casefold()
        if place in seen:
            problem = "is a duplicate"
        if problem:
            raise _unsafe(info, problem, archive)
        seen.add(place)
    members = [i for i in infos if not i.is_dir() and not is_junk(PurePosixPath(i.filename))]
    _require_files_or_folders(members, archive)
    return members


def _require_space(infos: Sequence[zipfile.ZipInfo], archive: Path, folder: Path) -> None:
    total, packed = sum(info.file_size for info in infos), archive.stat().st_size
    if total > MAX_UNPACKED_BYTES:
        raise ExportError(
            f"unpacks to more than {MAX_UNPACKED_BYTES} bytes", file=archive, fix=UNSAFE
        )
    if total > max(MAX_PACKED_TIGHTLY, MAX_COMPRESSION_RATIO * packed):
        raise ExportError(
            f"{packed} bytes unpack to {total}, more than {MAX_COMPRESSION_RATIO} times as many",
            file=archive,
            fix=UNSAFE,
        )
    if total > (free := _free_bytes(folder)):
        raise ResourceError(
            f"unpacking {archive} takes {total / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free",
            file=folder.parent,
            fix="Free some space on this disk, or write the results to another one",
        )


def _free_bytes(folder: Path) -> int:
    """Of the disk of a folder that need not exist yet."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _require_apart(infos: Sequence[zipfile.ZipInfo], end: int, archive: Path) -> None:
    """Members that overlap are how a small file unpacks to any size."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    starts = [*(info.header_offset for info in ordered), end]
    for info, (start, after) in zip(ordered, pairwise(starts), strict=True):
        if start + HEADER_BYTES + info.compress_size > after:
            raise _unsafe(info, "overlaps another one", archive)


def _require_files_or_folders(members: Sequence[zipfile.ZipInfo], archive: Path) -> None:
    files = {PurePosixPath(info.filename) for info in members}
    for info in members:
        if not files.isdisjoint(PurePosixPath(info.filename).parents):
            raise _unsafe(info, "lies in another member, which is a file", archive)


def _unsafe(info: zipfile.ZipInfo, problem: str, archive: Path) -> ExportError:
    return ExportError(
        f"{problem}; nothing was unpacked",
        file=archive,
        record=f"member {shown(info.filename)}",
        fix=PACK_AGAIN if problem in (IS_ENCRYPTED, IS_PACKED_OTHERWISE) else UNSAFE,
    )


def path_danger(name: str) -> str | None:
    """Why a path from an export must not be followed; None where it may be."""
    if has_control_characters(name):
        return "has a name with control characters"
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or (len(name) > 1 and name[1] == ":"):
        return "has an absolute path"
    if len(name.encode()) > MAX_PATH_BYTES or any(
        len(part.encode()) > MAX_NAME_BYTES for part in path.parts
    ):
        return "has a name that is too long"
    return "leaves the folder" if ".." in path.parts else None


def _danger(info: zipfile.ZipInfo) -> str | None:
    is_icon = PurePosixPath(info.filename).name == ICON
    if problem := path_danger(info.filename.removesuffix("\r") if is_icon else info.filename):
        return problem
    if not info.is_dir() and not PurePosixPath(info.filename).parts:
        return "has no name"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or another special file"
    if info.flag_bits & ENCRYPTED:
        return IS_ENCRYPTED
    if info.compress_type not in METHODS:
        return IS_PACKED_OTHERWISE
    if info.file_size > max(MAX_MEMBER_PACKED_TIGHTLY, MAX_COMPRESSION_RATIO * info.compress_size):
        return f"unpacks to more than {MAX_COMPRESSION_RATIO} times its size"
    return None


def is_junk(path: PurePosixPath) -> bool:
    """Whether a path belongs to the files that operating systems leave behind."""
    return any(part in JUNK or part.startswith("._") for part in path.parts)
