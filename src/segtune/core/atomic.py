"""Files that appear complete or not at all."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it there when the block succeeds.

    The data is flushed to the disk before the move, so a power loss leaves the old file or the
    new one. When the block raises, `path` is unchanged and nothing else remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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


def _flush_folder(folder: Path) -> None:
    # Otherwise, a power loss could undo the move.
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
