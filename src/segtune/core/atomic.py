"""Files that appear complete or not at all."""

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segtune.core.errors import ResourceError
from segtune.core.foreign import file_problem

SUFFIX = ".tmp"
# Whatever the user asked for, these are problems of the disk that holds the results.
DISK_PROBLEMS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT),
}


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it there when the block succeeds.

    The data is flushed to the disk before the move, so a power loss leaves the old file or the
    new one. When the block raises, `path` is unchanged and nothing else remains. What a killed
    process has left behind is removed the next time that `path` is written.

    Raises:
        ResourceError: when the disk is full or cannot be written to, or when something else than
            a file has this name.
    """
    _require_no_other_kind(path)
    with disk_problems(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        temporary, descriptor = _locked_temporary(path)
        try:
            yield temporary
            flush_file(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)


def require_writable(path: Path) -> None:
    """Check that a file can be written, before the work that will fill it.

    Raises:
        ResourceError: as `atomic_path` would.
    """
    _require_no_other_kind(path)
    with disk_problems(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, descriptor = _locked_temporary(path)
        temporary.unlink()
        os.close(descriptor)


def _require_no_other_kind(path: Path) -> None:
    # A move would replace the name of a device by a file, for everyone on the machine.
    # Unlike that of Path, this is False where a name is too long.
    if os.path.exists(path) and (problem := file_problem(path)):  # noqa: PTH110
        raise ResourceError(
            f"cannot write the file ({problem})", file=path, fix="Choose another place"
        )


@contextmanager
def disk_problems(path: Path) -> Iterator[None]:
    """Report a full or read-only disk as an error that names it.

    Raises:
        ResourceError: in that case.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_PROBLEMS or not _concerns(error, path):
            raise
        raise ResourceError(
            f"cannot write the file ({error.strerror}) on the disk of {_mount_point(path)}",
            file=path,
            fix="Free space there or choose another `results` folder; earlier results are whole",
        ) from None


def _concerns(error: OSError, path: Path) -> bool:
    """Whether an error came from writing `path`, not from reading some other file."""
    if error.filename is None:  # of a write, which knows only a descriptor
        return True
    named = Path(error.filename)
    if error.errno == errno.ENOENT:  # of an input, unless segtune was just making this
        own = named == path or named.name.startswith(f".{path.name}.")
        return own or named in path.parents
    return named in path.parents or named.parent == path.parent


def _mount_point(path: Path) -> Path:
    path = path.resolve()
    while not os.path.ismount(path):
        path = path.parent
    return path


def _locked_temporary(path: Path) -> tuple[Path, int]:
    """A new file beside `path`, locked for as long as its descriptor is open.

    The lock tells it from those that a killed process has left behind.
    """
    while True:
        descriptor, name = tempfile.mkstemp(SUFFIX, f".{path.name}.", path.parent)
        # Without locks on this file system, leftovers stay.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return Path(name), descriptor
        os.close(descriptor)  # another process has removed it just before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of processes that have died while they wrote `path`."""
    for found in path.parent.iterdir():
        if found.name.startswith(f".{path.name}.") and found.name.endswith(SUFFIX):
            with contextlib.suppress(OSError):  # it is in use, or has just been removed
                descriptor = os.open(found, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    found.unlink()
                finally:
                    os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically.

    Raises:
        ValueError: for NaN and infinity, which JSON does not have.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", "utf-8")


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write records as one JSON list, a line each, without holding all of them in memory."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, record in enumerate(records):
            file.write(f"{',' if number else ''}\n{json.dumps(record, allow_nan=False)}")
        file.write("\n]\n")


def write_tables(path: Path, tables: Mapping[str, Iterable[Any]]) -> None:
    """Write tables as one JSON object, a line per record, without holding it all in memory."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for number, (name, records) in enumerate(tables.items()):
            file.write(f"{',' if number else '{'}\n{json.dumps(name)}: [")
            for line, record in enumerate(records):
                # Rows of numbers may be arrays, which take a quarter of the memory of lists.
                text = json.dumps(record, allow_nan=False, default=list)
                file.write(f"{',' if line else ''}\n{text}")
            file.write("]")
        file.write("}\n")


def flush_file(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb") as written:
        os.fsync(written.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk: a power loss could undo a move."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    # The mask can only be read by setting it; mkstemp itself uses mode 0600.
    mask = os.umask(0)
    os.umask(mask)
    return mask
