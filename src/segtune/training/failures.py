"""Failures of one process, after which all processes stop together.

If a process simply raised, the others would wait for it in their next sum. Instead it notes what
has happened, all learn of it from that sum, and all raise the same error.
"""

import gc
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar, cast

import torch

from segtune.core.config import CHECKPOINTED, TrainSettings
from segtune.core.errors import SegtuneError
from segtune.core.gpu_memory import out_of_memory
from segtune.core.processes import Processes

T = TypeVar("T")


class StepFailed(Exception):
    """All processes agreed that the run cannot continue; its state is that of the last step."""

    def __init__(self, error: SegtuneError) -> None:
        self.error = error
        super().__init__(str(error))


def attempt(
    work: Callable[[], T], images: Sequence[str] = ()
) -> tuple[T, None] | tuple[None, SegtuneError]:
    """The result of `work`, or the error to report to the other processes.

    Args:
        work: what may run out of memory, or raise a SegtuneError.
        images: what it works on, for the message about a full memory.
    """
    try:
        return work(), None
    except torch.OutOfMemoryError:
        failure: SegtuneError = out_of_memory(images)
    except SegtuneError as error:
        failure = error.with_traceback(None)
    # Outside of the handler, so that no frame holds a tensor any more: the memory is free again.
    gc.collect()
    torch.cuda.empty_cache()
    return None, failure


def agreed(found: tuple[T, None] | tuple[None, SegtuneError], processes: Processes) -> T:
    """The result of an attempt that every process has made.

    Raises:
        StepFailed: in all processes, when it failed in any of them.
    """
    result, failure = found
    if any(processes.sum([failure is not None])):
        raise_together(failure, processes)
    return cast(T, result)


def raise_together(failure: SegtuneError | None, processes: Processes) -> NoReturn:
    """Raise the first process's failure in all processes.

    Args:
        failure: of this process, if it has one; at least one process has.
        processes: this process among the others.

    Raises:
        StepFailed: always.
    """
    raise StepFailed(next(error for error in processes.gather(failure) if error))


def memory_advice(settings: TrainSettings) -> str:
    """The settings with which a step takes less memory, those that continue a run first."""
    values = settings.model_dump(include={"micro_batch_size", "masks_per_chunk"})
    lower = [f"train.{name} (now {value})" for name, value in values.items() if value > 1]
    continuing = [f"lower {' or '.join(lower)}"] if lower else []
    checkpointed = settings.activation_checkpointing
    if checkpointed == "auto" or set(checkpointed) != set(CHECKPOINTED):
        every = ", ".join(CHECKPOINTED)
        continuing.append(f"set train.activation_checkpointing to [{every}]")
    others = ["image_size"]
    if settings.max_negatives > 1:
        others.insert(0, f"train.max_negatives (now {settings.max_negatives})")
    advice = f"a lower {' or '.join(others)} takes less memory, but starts a new run"
    if continuing:
        advice = f"{', or '.join(continuing)}, which continues this run from here; {advice}"
    return advice[0].upper() + advice[1:]
