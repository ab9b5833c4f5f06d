"""What people see while a stage works: a live line in a terminal, plain lines in a log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Say that `done` more items are finished, and what is worth knowing now."""

    def __call__(self, done: int = 1, note: str = "") -> None: ...


def log_line(text: str) -> None:
    """One line for people."""
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(text)


@contextmanager
def progress(title: str, total: int, done: int = 0, visible: bool = True) -> Iterator[Advance]:
    """Show how far a loop of `total` items is; `done` of them were finished before.

    Where the output is no terminal, a plain line appears at the start, every ten seconds
    and at the end.
    """
    if not visible:
        yield _silent
    elif Console().is_terminal:
        with _bar() as bar:
            task = bar.add_task(title, total=total, completed=done, note="")
            yield lambda done=1, note="": bar.update(task, advance=done, note=note)
    else:
        yield _plain_lines(title, total, done)


def _silent(done: int = 1, note: str = "") -> None:
    pass


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, *times, TextColumn("{task.fields[note]}"))


def _plain_lines(title: str, total: int, already_done: int) -> Advance:
    began, spoken, finished = time.monotonic(), float("-inf"), already_done

    def advance(done: int = 1, note: str = "") -> None:
        nonlocal spoken, finished
        finished += done
        now = time.monotonic()
        if now - spoken >= SECONDS_BETWEEN_LINES or finished == total:
            spoken = now
            left = (now - began) / (finished - already_done) * (total - finished)
            print(f"{title} {finished}/{total}  {left:.0f} s left  {note}".rstrip(), flush=True)

    return advance
