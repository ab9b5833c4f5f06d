"""Processes that read images ahead of the model, and end with it."""

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from segtune.core.errors import SegtuneError
from segtune.core.parent import end_with_creator
from segtune.core.stop_signal import STOP_SIGNALS

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(read: Callable[[T], R], items: Sequence[T], *, workers: int) -> Iterator[R]:
    """What `read` makes of each item, in their order.

    Args:
        read: a function that can be pickled.
        items: its arguments.
        workers: processes that call it; without them, it is called when its turn comes.

    Raises:
        SegtuneError: of `read`, when its turn comes.
    """
    return loaded(
        DataLoader(
            _Reading(read, items),
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=workers,
            worker_init_fn=live_as_long_as_creator,
            # Each loader draws a seed; from the global generator, a resumed run would differ.
            generator=torch.Generator(),
        )
    )


def loaded(loader: DataLoader[T | SegtuneError]) -> Iterator[T]:
    """What a loader yields.

    Args:
        loader: whose workers start with `live_as_long_as_creator`. It yields errors, since one
            that is raised in a worker gets its traceback as a message.

    Raises:
        SegtuneError: that the loader yields.
    """
    with stop_signals_blocked():
        running = iter(loader)  # starts the workers, which inherit what is blocked
    atexit.unregister(_kill_workers)  # so that it is the last one registered, and runs first
    atexit.register(_kill_workers)
    for item in running:
        if isinstance(item, SegtuneError):
            raise item
        yield item


def live_as_long_as_creator(*_: Any) -> None:
    """Let a worker end with the process that created it, and by no signal that stops training.

    torchrun and Ctrl-C signal the whole process group. Training finishes its step and saves first,
    for which it needs the data; its workers end with it.
    """
    end_with_creator()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _kill_workers() -> None:
    """End the workers of loaders that are still referenced when their process ends.

    Python sends its daemons SIGTERM then, which these ignore, and waits for them forever.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Within, signals to stop wait: one would kill a worker that does not ignore them yet."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Reading(Dataset[R | SegtuneError]):
    def __init__(self, read: Callable[[T], R], items: Sequence[T]) -> None:
        self.read: Callable[[Any], R] = read
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> R | SegtuneError:
        try:
            return self.read(self.items[place])
        except SegtuneError as error:
            return error.with_traceback(None)


def _unchanged(item: T) -> T:
    return item
