"""A file system without locks is refused, in every place that needs them."""

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from segtune.core.errors import ResourceError
from segtune.core.publishing import exclusive, published
from segtune.training.checkpoint import locked


@pytest.mark.parametrize("needing", [exclusive, published, locked])
def test_a_file_system_without_locks_is_refused(
    needing: Callable[[Path], AbstractContextManager[object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))  # of Lustre

    monkeypatch.setattr(fcntl, "flock", no_locks)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with (
        pytest.raises(ResourceError, match=r"lock: this file system has no locks.*`results`"),
        needing(tmp_path / "out"),
    ):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
