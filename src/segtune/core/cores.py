"""CPU cores."""

import os
import sys


def usable_cores() -> int:
    """How many cores this process may use, which a scheduler or a container may limit."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
