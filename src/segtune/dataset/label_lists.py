"""Lists of images to label: text files of a shard each, in which an image stays once it is listed.

`<folder>/lists/0000.txt` and so on have the path of an image in each line, and
`<folder>/lists.json` names the lists. New images fill new lists, so that those of finished shards
remain as they are. Names are sorted on the disk, and only those of one list are in memory.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from segtune.core.atomic import atomic_path
from segtune.core.errors import DatasetError, shown
from segtune.core.typed_json import read_typed, write_typed
from segtune.dataset.image_names import image_names, read_list, sort_key

INDEX = "lists.json"
FOLDER = "lists"


@dataclass(frozen=True)
class ImageList:
    """A list that has images."""

    name: str  # of the file, without its suffix
    images: int


def read_index(path: Path) -> list[ImageList]:
    """Read which lists there are, in order.

    Raises:
        DatasetError: when it was not written by `update_lists`.
    """
    return read_typed(path, list[ImageList], "Run segtune.label_list again")


def update_lists(folder: Path, images: Path, *, size: int) -> list[ImageList]:
    """Bring the lists up to date: removed images leave theirs, and new ones fill new lists.

    Args:
        folder: of the lists and their index.
        images: folder of the images.
        size: images of a new list, at most; those that exist keep theirs.

    Returns:
        The lists that have images, in order. A list that has not changed is not written.

    Raises:
        DatasetError: when there are no images, one has a name that is not a line, or a list
            cannot be read.
    """
    # A temporary file of its own, of which 2 MB are in memory.
    with closing(sqlite3.connect("")) as found:
        found.execute("PRAGMA journal_mode = OFF")
        found.execute("CREATE TABLE image (key BLOB PRIMARY KEY, listed INTEGER) WITHOUT ROWID")
        found.executemany("INSERT INTO image VALUES (?, 0)", _keys(images))
        if not found.execute("SELECT 1 FROM image").fetchone():
            raise DatasetError("no images in this folder", file=images, fix="Check label.images")
        lists = [*_earlier(folder / FOLDER, found)]
        lists += _new(folder / FOLDER, found, size=size)
    write_typed(folder / INDEX, lists)
    return lists


def _keys(images: Path) -> Iterator[tuple[bytes]]:
    for name in image_names(images, setting="label.images"):
        if "\n" in name or "\r" in name:
            problem = f"the name {shown(name)} has a line break"
            raise DatasetError(problem, file=images, fix="Rename the image")
        yield (sort_key(name),)


def _earlier(folder: Path, found: sqlite3.Connection) -> Iterator[ImageList]:
    """The lists of earlier calls, without the images that are no longer there."""
    for path in sorted(folder.glob("*.txt"), key=lambda path: (len(path.stem), path.stem)):
        listed = read_list(path)
        remaining = [name for name in listed if _claim(found, name)]
        if not remaining:
            path.unlink()
            continue
        if remaining != listed:
            _write(path, remaining)
        yield ImageList(path.stem, len(remaining))


def _claim(found: sqlite3.Connection, name: str) -> bool:
    """Note that an image is in a list; False if it is not there, or in an earlier list, too."""
    change = "UPDATE image SET listed = 1 WHERE key = ? AND NOT listed"
    return found.execute(change, (sort_key(name),)).rowcount == 1


def _new(folder: Path, found: sqlite3.Connection, *, size: int) -> Iterator[ImageList]:
    numbers = [int(path.stem) for path in folder.glob("*.txt") if path.stem.isdecimal()]
    number = max(numbers, default=-1)
    rows = found.execute("SELECT key FROM image WHERE NOT listed ORDER BY key")
    while keys := rows.fetchmany(size):
        number += 1
        _write(folder / f"{number:04}.txt", [_name(key) for (key,) in keys])
        yield ImageList(f"{number:04}", len(keys))


def _name(key: bytes) -> str:
    return os.fsdecode(key.replace(b"\0", b"/"))


def _write(path: Path, names: list[str]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(os.fsencode(name) + b"\n" for name in names))
