"""Unfinished training runs on disk: everything needed to resume them bitwise identically.

A run's state lives in a folder named after the run's fingerprint (settings, data, code). A
run with a different fingerprint never resumes from it. The last two states are retained; the
name of each file contains its checksum, so that a damaged one is detected and skipped.
Nothing here is a declared output of the workflow, which would delete it when the job fails.
"""

import hashlib
import io
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from segtune.core.atomic import atomic_path, write_json
from segtune.core.errors import TrainingError
from segtune.core.fingerprints import differences, json_digest
from segtune.core.foreign import read_bytes, read_json
from segtune.core.locks import lock
from segtune.model.torch_files import read_torch_file

MAX_STATES = 2
FINGERPRINT = "fingerprint.json"
NAME = re.compile(r"state-[0-9]{8}-[0-9a-f]{16}\.pt")
FIX = "Remove this file; the run is then resumed from an earlier one, or starts over"


@contextmanager
def locked(parent: Path) -> Iterator[None]:
    """Keep every other training run out of `parent`.

    Raises:
        TrainingError: when another training run holds the lock.
        ResourceError: when the file system has no locks.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / "lock").open("w") as file:
        try:
            lock(file.fileno(), parent / "lock")
        except BlockingIOError:
            raise TrainingError(
                "another training run is writing here", file=parent, fix="Wait until it ends"
            ) from None
        yield


def run_folder(parent: Path, fingerprint: Mapping[str, Any]) -> Path:
    """The folder of the run with this fingerprint."""
    folder = parent / json_digest(fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FINGERPRINT, fingerprint)
    return folder


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a run's state (tensors and plain values), and remove all but the previous one."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    previous = _states(folder)
    number = _number(previous[-1]) + 1 if previous else 1
    path = folder / f"state-{number:08d}-{_digest(buffer.getvalue())}.pt"
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    for outdated in previous[: 1 - MAX_STATES]:
        outdated.unlink()


def load_state(folder: Path) -> tuple[dict[str, Any] | None, list[Path]]:
    """The newest undamaged state of an interrupted run, and the damaged files.

    Returns:
        The state is None where there is none.

    Raises:
        TrainingError: when an undamaged file cannot be read, because segtune did not write it.
    """
    damaged: list[Path] = []
    for path in reversed(_states(folder)):
        content = read_bytes(path, TrainingError, FIX)
        if path.stem.rpartition("-")[2] == _digest(content):
            state = read_torch_file(path, TrainingError, FIX)
            if not isinstance(state, dict):
                raise TrainingError("not the state of a training run", file=path, fix=FIX)
            return state, damaged
        damaged.append(path)
    return None, damaged


def remove_damaged(folder: Path, damaged: Sequence[Path]) -> None:
    """Remove damaged states, and partial ones that a killed process left behind."""
    for path in [*damaged, *folder.glob(".state-*")]:
        path.unlink()


def remove_run(folder: Path) -> None:
    """Remove the state of a run that has finished."""
    shutil.rmtree(folder)


def changes_since(parent: Path, fingerprint: Mapping[str, Any]) -> dict[str, list[str]]:
    """Per other interrupted run in `parent`, why it cannot be resumed: what has changed."""
    return {
        path.parent.name: _changes(path, fingerprint)
        for path in sorted(parent.glob(f"*/{FINGERPRINT}"))
        if path.parent.name != json_digest(fingerprint) and _states(path.parent)
    }


def _changes(path: Path, fingerprint: Mapping[str, Any]) -> list[str]:
    try:
        return differences(read_json(path, TrainingError, FIX), fingerprint)
    except TrainingError:  # it would not be resumed anyway
        return [f"its {FINGERPRINT} is damaged"]


def _states(folder: Path) -> list[Path]:
    """The states in a folder, oldest first."""
    return sorted(path for path in folder.glob("state-*.pt") if NAME.fullmatch(path.name))


def _number(path: Path) -> int:
    return int(path.stem.split("-")[1])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
