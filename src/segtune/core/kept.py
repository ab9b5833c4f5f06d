"""Earlier results, each kept under the fingerprint of everything that it depends on.

A store is a folder with one folder per result, named after the digest of the fingerprint.
Where the file system allows it, the files in place are hard links to the kept ones, so that
the newest result takes no space twice. Every file has its checksum: a damaged result is never
used.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segtune.core.atomic import disk_problems, write_json
from segtune.core.errors import DatasetError, ResourceError
from segtune.core.fingerprints import file_digest, json_digest
from segtune.core.publishing import WRITING, flush, new_folder, publish

STORE = "kept"
RECORD = "kept.json"
DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Kept:
    """A kept result."""

    folder: Path
    fingerprint: Mapping[str, Any]
    files: Mapping[str, str]  # digest by path below the folder
    summary: str  # of the result, such as its score
    finished: str  # date and time

    @property
    def digest(self) -> str:
        """The name by which the result is listed."""
        return self.folder.name

    @property
    def used(self) -> float:
        """When it was last put in place, in seconds."""
        return (self.folder / RECORD).stat().st_mtime

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum((self.folder / name).stat().st_size for name in self.files)


def store_of(path: Path) -> Path:
    """The store for a result of one file."""
    return path.parent / STORE / path.name


def stores(results: Path) -> list[Path]:
    """Every store below a folder."""
    return sorted({record.parents[1] for record in results.rglob(f"{STORE}/**/{RECORD}")})


def place_of(store: Path) -> Path:
    """The folder in which the results of a store are put in place."""
    return store.parent if store.name == STORE else store.parents[1]


@contextmanager
def kept_result(store: Path, fingerprint: Mapping[str, Any], summary: str) -> Iterator[Path]:
    """Yield a folder for the files of a new result, and keep it when the block succeeds.

    Args:
        store: the folder of kept results.
        fingerprint: everything that the result depends on.
        summary: what to show of it in a list, such as its score.

    Raises:
        ResourceError: when the disk is full or cannot be written to.
    """
    with disk_problems(store / WRITING), new_folder(store / WRITING) as writing:
        yield writing
        record = {
            "fingerprint": fingerprint,
            "files": _digests(writing),
            "summary": summary,
            "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        }
        write_json(writing / RECORD, record)
        flush(writing)
        folder = store / json_digest(fingerprint)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        writing.rename(folder)


def find_kept(store: Path, fingerprint: Mapping[str, Any]) -> Kept | None:
    """The kept result with this fingerprint, if it is there and whole."""
    kept = _read(store / json_digest(fingerprint))
    return kept if kept and kept.fingerprint == fingerprint and is_whole(kept) else None


def just_kept(store: Path, fingerprint: Mapping[str, Any]) -> Kept:
    """The result that has just been kept, read back and compared.

    Raises:
        ResourceError: when it is not what was written.
    """
    kept = find_kept(store, fingerprint)
    if kept is None:
        raise ResourceError(
            "what was written cannot be read back", file=store, fix="Check the disk; then try again"
        )
    return kept


def all_kept(store: Path) -> list[Kept]:
    """Every kept result, the one used last first; what cannot be read is left out."""
    found = [_read(folder) for folder in store.iterdir()] if store.is_dir() else []
    return sorted((kept for kept in found if kept), key=lambda kept: (-kept.used, kept.digest))


def place(kept: Kept, out: Path) -> None:
    """Put the files of a kept result into `out`, all together; other files stay.

    Raises:
        ResourceError: when the disk is full or cannot be written to.
    """
    with disk_problems(out / WRITING), new_folder(out / WRITING) as writing:
        for name in kept.files:
            (writing / name).parent.mkdir(parents=True, exist_ok=True)
            _link(kept.folder / name, writing / name)
        publish(writing, out)
    os.utime(kept.folder / RECORD)


def place_file(kept: Kept, path: Path) -> None:
    """Put the only file of a kept result at `path`, which nobody else is writing."""
    temporary = path.with_name(f".{path.name}.link")
    with disk_problems(path):
        temporary.unlink(missing_ok=True)
        _link(kept.folder / path.name, temporary)
        temporary.replace(path)
    os.utime(kept.folder / RECORD)


def is_in_place(kept: Kept, out: Path) -> bool:
    """Whether the files in `out` are those of a kept result."""
    return all(
        (out / name).is_file() and _digest(out / name) == digest
        for name, digest in kept.files.items()
    )


def is_whole(kept: Kept) -> bool:
    """Whether every file is as it was written."""
    return is_in_place(kept, kept.folder)


def remove_oldest(store: Path, out: Path, limit: int) -> None:
    """Keep `limit` results besides the one in place: those that were used last.

    What a killed process has removed halfway goes, too.
    """
    found = all_kept(store)
    earlier = [kept for kept in found if not is_in_place(kept, out)]
    unreadable = {path for path in store.glob("*/") if DIGEST.fullmatch(path.name)}
    unreadable -= {kept.folder for kept in found}
    for folder in [*(kept.folder for kept in earlier[max(0, limit) :]), *unreadable]:
        shutil.rmtree(folder)


def _read(folder: Path) -> Kept | None:
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in record["files"]):
            return None  # not written here
        if folder.name != json_digest(record["fingerprint"]):
            return None  # not complete
        return Kept(
            folder,
            fingerprint=dict(record["fingerprint"]),
            files={str(name): str(digest) for name, digest in record["files"].items()},
            summary=str(record["summary"]),
            finished=str(record["finished"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # half removed, or damaged: made again when it is needed


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    return file_digest(path, DatasetError, "Run the command again")


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # this file system has no hard links
        shutil.copy2(source, target)
