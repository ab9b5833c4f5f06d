"""Several files that are published together, and locks on the places where results go.

The files of a stage describe each other, so they are written completely into a folder beside
their place before the first of them is moved there. From then on, nothing can fail but the
process itself; if it is killed in the middle of the moves, the next run completes them.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segtune.core.atomic import disk_problems, flush_file, flush_folder
from segtune.core.errors import BusyError, ResourceError
from segtune.core.locks import lock

WRITING = ".writing"  # a folder of files that are not complete
COMPLETE = ".complete"  # the same folder, once all of them are


@contextmanager
def exclusive(place: Path) -> Iterator[None]:
    """Keep every other process out of `place`, a file or folder to write.

    Raises:
        BusyError: when another process is writing there.
        ResourceError: when the file system has no locks.
    """
    path = place.with_name(f".{place.name}.lock")
    with disk_problems(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path, place)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path, place: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock(descriptor, path)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise BusyError(
                "another segtune process is writing here",
                file=place,
                fix="Wait until it ends, or choose another place",
            ) from None
        except ResourceError:
            os.close(descriptor)
            raise
        except FileNotFoundError:
            pass
        # Its last owner removed the file before it could be locked here.
        os.close(descriptor)


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """Yield a new folder; when the block succeeds, its files appear in `folder` together.

    Other files in `folder` stay as they are. When the block raises, nothing has changed.

    Raises:
        BusyError: when another process is writing to `folder`.
        ResourceError: when the disk is full or cannot be written to.
    """
    with exclusive(folder), disk_problems(folder / WRITING):
        finish_publishing(folder)
        with new_folder(folder / WRITING) as writing:
            yield writing
            publish(writing, folder)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder in the place of what a killed process has left; removed at the end."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):  # unless something is in it
            path.parent.rmdir()


def require_space(folder: Path, needed: int) -> None:
    """Refuse to write `needed` bytes below a folder, which may not exist yet, on a full disk.

    Raises:
        ResourceError: when the disk has less free space.
    """
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"{needed / 1e9:.1f} GB are needed on this disk, and {free / 1e9:.1f} GB are free",
            file=folder,
            fix="Free space there, or choose another `results` folder",
        )


def publish(written: Path, folder: Path) -> None:
    """Move the files of the folder `written`, on the same disk, into `folder`."""
    flush(written)
    written.rename(folder / COMPLETE)
    flush_folder(folder)
    finish_publishing(folder)


def finish_publishing(folder: Path) -> None:
    """Move what is complete to its place, also on behalf of a process that was killed."""
    complete = folder / COMPLETE
    for file in sorted(path for path in complete.rglob("*") if path.is_file()):
        place = folder / file.relative_to(complete)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
        flush_folder(place.parent)
    with suppress(FileNotFoundError):
        shutil.rmtree(complete)


def flush(folder: Path) -> None:
    """Wait until a folder with all that is in it is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            flush_file(path)
        else:
            flush_folder(path)
    flush_folder(folder)
