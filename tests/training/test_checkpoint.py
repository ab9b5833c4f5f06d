"""Unfinished runs: one at a time, never resumed by another, and removed when finished."""

import hashlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from segtune.core.errors import TrainingError
from segtune.training.checkpoint import (
    changes_since,
    load_state,
    locked,
    remove_damaged,
    remove_run,
    run_folder,
    save_state,
)

OLD = {"settings": {"rank": 16, "alpha": 32}, "code": {"lora.py": "abc"}}
NEW = {"settings": {"rank": 32, "alpha": 32}, "code": {"lora.py": "abc"}}


def test_a_state_can_be_loaded(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, OLD)
    assert load_state(folder) == (None, [])
    state = {"adapter": {"a": torch.randn(3)}, "position": {"step": 4}, "lines": 7}
    save_state(folder, state)
    loaded, damaged = load_state(run_folder(tmp_path, OLD))
    assert loaded is not None
    assert not damaged
    assert torch.equal(loaded["adapter"]["a"], state["adapter"]["a"])  # type: ignore[index]
    assert loaded["position"] == {"step": 4}
    assert load_state(run_folder(tmp_path, NEW)) == (None, [])
    remove_run(folder)
    assert not folder.exists()


def test_only_the_last_two_states_are_retained(tmp_path: Path) -> None:
    for number in range(12):
        save_state(tmp_path, {"number": number})
        assert load_state(tmp_path) == ({"number": number}, [])
    assert len(list(tmp_path.iterdir())) == 2


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: path.write_bytes(b"")])
def test_a_damaged_state_is_skipped(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    for number in range(3):
        save_state(tmp_path, {"number": number})
    before, last = sorted(tmp_path.iterdir())
    damage(last)
    assert load_state(tmp_path) == ({"number": 1}, [last])
    damage(before)
    assert load_state(tmp_path) == (None, [last, before])
    (tmp_path / ".state-00000009-x.pt.abc").write_text("left by a killed process")
    remove_damaged(tmp_path, [last, before])
    assert not list(tmp_path.iterdir())


def disguise(folder: Path, content: bytes) -> Path:
    """A state with the checksum of its content, whatever that is."""
    path = folder / f"state-00000001-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.write_bytes(content)
    return path


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"no archive", saved([1]), saved(Path("/")), saved({"a": 1})[:-30]]
)
def test_a_state_that_segtune_did_not_write_is_refused_and_not_removed(
    tmp_path: Path, content: bytes
) -> None:
    path = disguise(tmp_path, content)
    with pytest.raises(TrainingError, match="Remove this file") as raised:
        load_state(tmp_path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "weights_only" not in str(raised.value)
    assert path.exists()


def test_files_of_other_names_are_not_states(tmp_path: Path) -> None:
    for name in ("state-x.pt", "state-00000001.pt", "state--1-0123456789abcdef.pt"):
        (tmp_path / name).write_bytes(b"")
    assert load_state(tmp_path) == (None, [])
    save_state(tmp_path, {"number": 1})
    assert load_state(tmp_path) == ({"number": 1}, [])


@pytest.mark.parametrize("content", [b"{", b"[" * 100_000, b"\xff"])
def test_a_damaged_fingerprint_of_another_run_does_not_stop_this_one(
    tmp_path: Path, content: bytes
) -> None:
    folder = run_folder(tmp_path, OLD)
    save_state(folder, {})
    (folder / "fingerprint.json").write_bytes(content)
    changes = changes_since(tmp_path, NEW)
    assert changes == {folder.name: ["its fingerprint.json is damaged"]}


def test_the_differences_of_another_run_are_listed(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, OLD)
    assert changes_since(tmp_path, NEW) == {}
    save_state(folder, {})
    assert changes_since(tmp_path, OLD) == {}
    assert changes_since(tmp_path, NEW) == {folder.name: ["settings.rank: 16 -> 32"]}


def test_only_one_run_at_a_time_uses_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from segtune.training.checkpoint import locked\n"
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
    with (
        pytest.raises(TrainingError, match="another training run is writing here"),
        locked(tmp_path),
    ):
        pass
    other.communicate()
    with locked(tmp_path):
        pass
