"""Locks on files, which other machines respect where the file system passes them on."""

import fcntl
from pathlib import Path

from segtune.core.errors import ResourceError
from segtune.core.foreign import reason


def lock(descriptor: int, path: Path) -> None:
    """Lock an open file, until it is closed.

    Args:
        descriptor: open for writing; NFS wants that.
        path: of the file, for messages.

    Raises:
        BlockingIOError: when another process has locked it.
        ResourceError: when there are no locks here, as on Lustre without `flock`.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise ResourceError(
            f"this file system has no locks ({reason(error)})",
            file=path,
            fix="Mount it with them (Lustre: option `flock`) or choose another `results` folder",
        ) from None
