"""Errors that a user can cause and fix.

Each carries its evidence: where it was found, what is wrong and what to do. The `main` of a
command runs under `exit_on_error`, so users see such an error as one line and a non-zero exit
status; any other exception is a bug in segtune and keeps its traceback.
"""

import reprlib
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Control and format characters, surrogates, and the separators of lines and paragraphs: on a
# terminal they would do something instead of being shown.
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
MAX_SHOWN = 200  # characters of a name from a foreign file


class SegtuneError(Exception):
    """Something in the user's input or settings that segtune cannot work with.

    Args:
        problem: what is wrong, in terms a user can act on.
        file: where it was found.
        record: the record in that file, such as "annotation 17".
        fix: what to do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: Path | str | None = None,
        record: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = str(file) if file is not None else None
        self.record = record
        self.fix = fix
        place = ": ".join(part for part in (self.file, record) if part)
        text = f"{place}: {problem}" if place else problem
        super().__init__(printable(f"{text}. {fix}" if fix else text))


class ConfigError(SegtuneError):
    """A setting that is unknown, missing, or in conflict with another one."""


class ExportError(SegtuneError):
    """An export that cannot be read without losing or inventing data."""


class DatasetError(SegtuneError):
    """A dataset or predictions that cannot be used."""


class WeightsError(SegtuneError):
    """Model weights that are not available, not readable, or do not fit the model."""


class AdapterError(SegtuneError):
    """A LoRA recipe or adapter file that does not fit the model."""


class ResourceError(SegtuneError):
    """A machine that is too small for the settings, or whose disk is full."""


class TrainingError(SegtuneError):
    """A training run that cannot continue."""


class BusyError(SegtuneError):
    """A place that another process is writing to."""


class LostProcessError(SegtuneError):
    """A run of several processes of which another one has ended."""


def printable(text: str) -> str:
    """The text on one line, with everything that a terminal would not show as an escape.

    Names from foreign files may contain sequences that move the cursor or hide text.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in HIDDEN else c for c in text)


def shown(value: object) -> str:
    """A value from a foreign file for a message: its `repr`, cut where it is long or deep."""
    return _SHORT.repr(value)


def listed(names: Sequence[str], most: int) -> str:
    """The first few names from a foreign file for a message, each cut where it is long."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:MAX_SHOWN] for name in names[:most]) + more


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlevel = 3


@contextmanager
def exit_on_error(command: str) -> Iterator[None]:
    """Turn a `SegtuneError` into one line on stderr and exit status 1."""
    try:
        yield
    except SegtuneError as error:
        print(f"segtune {command}: {type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
