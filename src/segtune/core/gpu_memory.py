"""Running out of GPU memory, as an error that says what was in it and what to do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from segtune.core.errors import ResourceError

FRAGMENTED = 0.1  # of a GPU's memory, reserved and not allocated


@contextmanager
def memory_errors(advice: str = "") -> Iterator[None]:
    """Within, running out of memory is an error with advice, of this process and no other.

    Args:
        advice: settings that take less memory.

    Raises:
        ResourceError: in that case.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        failure = out_of_memory((), advice)
    else:
        return
    raise failure


def out_of_memory(images: Sequence[str], advice: str = "") -> ResourceError:
    """The error for a full memory, with what was in it.

    Args:
        images: that were worked on.
        advice: settings that take less memory.
    """
    held, fix = "", "Close other programs that use this GPU"
    if torch.cuda.is_available():
        allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        capacity = torch.cuda.get_device_properties().total_memory
        held = f" (of {capacity / 1e9:.1f} GB, tensors took {allocated / 1e9:.1f} GB and "
        held += f"the allocator {reserved / 1e9:.1f} GB)"
        if reserved - allocated > FRAGMENTED * capacity:
            fix = "Set PYTORCH_ALLOC_CONF=expandable_segments:True: the memory is fragmented"
    fix = f"{advice}, or {fix[0].lower()}{fix[1:]}" if advice else fix
    return ResourceError(f"out of GPU memory{held}", record=", ".join(images) or None, fix=fix)
