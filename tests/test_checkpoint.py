"""Unfinished runs: one at a time, never continued by another, and gone when done."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segtune.checkpoint import changes_since, forget, load_state, locked, run_folder, save_state
from segtune.errors import TrainingError

OLD = {"settings": {"rank": 16, "alpha": 32}, "code": {"lora.py": "abc"}}
NEW = {"settings": {"rank": 32, "alpha": 32}, "code": {"lora.py": "abc"}}


def test_a_state_comes_back(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, OLD)
    assert load_state(folder) is None
    state = {"adapter": {"a": torch.randn(3)}, "position": {"step": 4}, "lines": 7}
    save_state(folder, state)
    loaded = load_state(run_folder(tmp_path, OLD))
    assert loaded is not None
    assert torch.equal(loaded["adapter"]["a"], state["adapter"]["a"])  # type: ignore[index]
    assert loaded["position"] == {"step": 4}
    assert load_state(run_folder(tmp_path, NEW)) is None
    forget(folder)
    assert not folder.exists()


def test_another_runs_differences_are_named(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, OLD)
    assert changes_since(tmp_path, NEW) == {}
    save_state(folder, {})
    assert changes_since(tmp_path, OLD) == {}
    assert changes_since(tmp_path, NEW) == {folder.name: ["settings.rank: 16 -> 32"]}


def test_a_folder_is_for_one_training_at_a_time(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from segtune.checkpoint import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(TrainingError, match="another training writes here"), locked(tmp_path):
        pass
    other.communicate()
    with locked(tmp_path):
        pass
