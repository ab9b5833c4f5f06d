"""Files of `write_tables`, read a line at a time: each record has one of its own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from segtune.core.errors import DatasetError
from segtune.core.foreign import reason, require_file

_DECODER = json.JSONDecoder()


def read_table(path: Path, name: str, fix: str) -> Iterator[Any]:
    """The records of a table, of which one at a time is in memory.

    Args:
        path: of a file that `write_tables` wrote.
        name: of the table.
        fix: what to do where the file cannot be read.

    Raises:
        DatasetError: in that case; the records before have been yielded.
    """
    try:
        require_file(path)
        with path.open(encoding="utf-8") as file:
            yield from _records(file, f"{json.dumps(name)}: [")
    except (OSError, ValueError, RecursionError) as error:
        problem = f"cannot read the table {name!r} ({reason(error)})"
        raise DatasetError(problem, file=path, fix=fix) from None


def _records(file: IO[str], head: str) -> Iterator[Any]:
    line = next((line for line in file if line.startswith(head)), None)
    if line is None:
        raise ValueError("it is missing")
    if line.startswith(f"{head}]"):
        return
    for line in file:
        record, end = _DECODER.raw_decode(line)
        yield record
        if line.startswith("]", end):
            return
        if line[end:] != ",\n":
            raise ValueError("not a record in each line")
    raise ValueError("its end is missing")
