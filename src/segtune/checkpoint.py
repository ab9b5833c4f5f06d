"""Unfinished training runs on disk: everything that is needed to go on, bit for bit.

A run's state lives in a folder named after its fingerprint (settings, data, code). A run
with another fingerprint never continues it. Nothing here is a declared output of the
workflow, which would delete it when the job fails.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from segtune.atomic import atomic_path, write_json
from segtune.errors import TrainingError
from segtune.provenance import json_digest

STATE = "state.pt"
FINGERPRINT = "fingerprint.json"


@contextmanager
def locked(parent: Path) -> Iterator[None]:
    """Keep every other training out of `parent`.

    Raises:
        TrainingError: when another training works there at this moment.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                "another training writes here", file=parent, remedy="Wait until it ends"
            ) from None
        yield


def run_folder(parent: Path, fingerprint: Mapping[str, Any]) -> Path:
    """The folder of the run with this fingerprint."""
    folder = parent / json_digest(fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FINGERPRINT, fingerprint)
    return folder


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a run's state (tensors and plain values), replacing the former one at once."""
    with atomic_path(folder / STATE) as temporary:
        torch.save(dict(state), temporary)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The state of an interrupted run, or None when there is none."""
    path = folder / STATE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def forget(folder: Path) -> None:
    """Remove the state of a run that has finished."""
    shutil.rmtree(folder)


def changes_since(parent: Path, fingerprint: Mapping[str, Any]) -> dict[str, list[str]]:
    """What keeps each other interrupted run in `parent` from being continued."""
    return {
        path.parent.name: _differences(json.loads(path.read_text("utf-8")), fingerprint)
        for path in sorted(parent.glob(f"*/{FINGERPRINT}"))
        if path.parent.name != json_digest(fingerprint) and (path.parent / STATE).exists()
    }


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if old == new else [f"{path}: {old} -> {new}"]
