"""Progress of a command: a live bar in a terminal, plain lines in a log."""

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

from segtune.core.errors import printable

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Report that `done` more items are finished, with a note."""

    def __call__(self, done: int = 1, note: str = "") -> None: ...


def log_line(text: str) -> None:
    """Print one line for the user."""
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(printable(text))


@contextmanager
def progress(title: str, total: int, done: int = 0, visible: bool = True) -> Iterator[Advance]:
    """Show the progress of a loop.

    Where the output is not a terminal, a plain line is printed after the first item, every ten
    seconds and at the end.

    Args:
        title: name of an item, such as "image".
        total: items of the loop.
        done: items that an earlier process has finished.
        visible: False in all processes but one.
    """
    if not visible:
        yield _silent
    elif Console().is_terminal:
        with _bar() as bar:
            task = bar.add_task(title, total=total, completed=done, note="")
            yield lambda done=1, note="": bar.update(task, advance=done, note=printable(note))
    else:
        yield _plain_lines(title, total, done)


def _silent(done: int = 1, note: str = "") -> None:
    pass


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, *times, TextColumn("{task.fields[note]}"))


def _plain_lines(title: str, total: int, already_done: int) -> Advance:
    began, printed, finished = time.monotonic(), float("-inf"), already_done

    def advance(done: int = 1, note: str = "") -> None:
        nonlocal printed, finished
        finished += done
        now = time.monotonic()
        if now - printed >= SECONDS_BETWEEN_LINES or finished == total:
            printed = now
            left = (now - began) / (finished - already_done) * (total - finished)
            line = f"{title} {finished}/{total}  {left:.0f} s left  {printable(note)}"
            print(line.rstrip(), flush=True)

    return advance
