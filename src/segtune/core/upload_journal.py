"""What has been uploaded, so that an interrupted upload continues instead of starting over.

One JSON record per line, appended and flushed to the disk after each request that succeeded. A line
that a killed process has left incomplete is ignored.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from segtune.core.atomic import disk_problems
from segtune.core.errors import DatasetError
from segtune.core.foreign import read_bytes


@dataclass(frozen=True)
class Uploaded:
    """An image that is there."""

    place: str  # address, project and batch
    image: str  # file name
    digest: str  # of the image and its labels
    id: str  # of the image, there
    is_complete: bool  # with its labels


def read_journal(path: Path, place: str) -> dict[tuple[str, str], Uploaded]:
    """What a journal lists of one place, by image and digest; nothing where there is none.

    Raises:
        DatasetError: when it cannot be read.
    """
    found: dict[tuple[str, str], Uploaded] = {}
    record = TypeAdapter(Uploaded)
    if path.exists():
        fix = "Let this user read it, or delete it to upload everything again"
        for line in read_bytes(path, DatasetError, fix, what="journal").splitlines():
            # One that cannot be read is one more request, which is answered as a duplicate.
            with suppress(ValidationError):
                one = record.validate_json(line)
                if one.place == place:
                    found[one.image, one.digest] = one
    return found


def add_to_journal(path: Path, one: Uploaded) -> None:
    """Append a record, and wait until it is on the disk.

    Raises:
        ResourceError: when the disk is full or cannot be written to.
    """
    with disk_problems(path), path.open("a+b") as file:
        start = b"" if _ends_with_line(file.tell(), path) else b"\n"
        file.write(start + json.dumps(asdict(one)).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _ends_with_line(size: int, path: Path) -> bool:
    if not size:
        return True
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"
