"""Files from outside: read whole, or refused in one line that names the file.

Every reader of bytes, text and JSON that segtune did not just write goes through this module.
What a file is, is looked at before it is opened: a pipe would block, and a device never ends.
"""

import json
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segtune.core.errors import SegtuneError

MAX_REASON = 300  # characters; some libraries quote whole files
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def file_problem(path: Path) -> str | None:
    """Why a path cannot be opened as a file; None where it is a regular file."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and path.is_symlink():
            return "it is a link to a file that does not exist"
        return reason(error)
    return None if kind == stat.S_IFREG else f"it is {_KINDS.get(kind, 'a special file')}"


def require_file(path: Path) -> None:
    """Check that a path can be opened as a file.

    Raises:
        OSError: with `file_problem` as its text.
    """
    if problem := file_problem(path):
        raise OSError(problem)


def read_bytes(path: Path, kind: type[SegtuneError], fix: str, *, what: str = "file") -> bytes:
    """The content of a regular file.

    Args:
        path: of the file.
        kind: of the error.
        fix: of the error.
        what: the file is, in messages.

    Raises:
        SegtuneError: of this kind, when it cannot be read.
    """
    try:
        require_file(path)
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        raise kind(f"cannot read the {what} ({reason(error)})", file=path, fix=fix) from None


def read_text(path: Path, kind: type[SegtuneError], fix: str, *, what: str = "text") -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        SegtuneError: of this kind, when it cannot be read, has another encoding or does not fit the
            memory.
    """
    content = read_bytes(path, kind, fix, what=what)
    try:
        return content.decode("utf-8-sig")
    except (UnicodeDecodeError, MemoryError) as error:
        raise kind(f"cannot read the {what} ({reason(error)})", file=path, fix=fix) from None


def read_json(
    path: Path,
    kind: type[SegtuneError],
    fix: str,
    *,
    what: str = "JSON",
    change: Callable[[dict[str, Any]], Any] = lambda record: record,
) -> Any:
    """The values of a JSON file; NaN and infinity are read too, for its reader to refuse.

    Args:
        path: of the file.
        kind: of the error.
        fix: of the error.
        what: the file is, in messages.
        change: applied to each object while the file is read.

    Raises:
        SegtuneError: of this kind, when it cannot be read, is not JSON, is nested too deeply or
            has a key twice in one object.
    """
    text = read_text(path, kind, fix, what=what)
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: change(_distinct(pairs)))
    except (ValueError, RecursionError, MemoryError) as error:
        raise kind(f"cannot read the {what} ({reason(error)})", file=path, fix=fix) from None


def reason(error: Exception) -> str:
    """Why reading failed, in a few words."""
    if isinstance(error, OSError):
        text = error.strerror or str(error)
    elif isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        text = f"not UTF-8 text: byte {byte:#04x} at position {error.start}"
    elif isinstance(error, RecursionError):
        text = "nested too deeply"
    elif isinstance(error, MemoryError):
        text = "too large for the memory"
    else:
        text = str(error).partition("\n")[0] or type(error).__name__
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        twin = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twin[:80]!r} is a duplicate")
    return record
