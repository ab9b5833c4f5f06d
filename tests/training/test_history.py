"""The log of a training run: a file for programs, TensorBoard for people."""

import json
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from segtune.training.history import History

with warnings.catch_warnings():
    # TensorBoard's reader imports deprecated parts of numpy and protobuf.
    warnings.simplefilter("ignore")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def history(folder: Path, lines: int = 0, step: int = 0) -> History:
    return History(folder / "history.jsonl", folder / "board", lines=lines, step=step)


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "history.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would plot: per curve, step and value."""
    board = EventAccumulator(str(folder / "board"))
    board.Reload()
    return {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }


def test_history_goes_to_a_file_and_to_tensorboard(tmp_path: Path) -> None:
    log = history(tmp_path)
    log.add("train", 1, {"loss": 2.5, "epoch": 1})
    log.add("train", 2, {"loss": 1.5, "epoch": 1})
    log.add("valid", 2, {"mask_AP": 0.25})
    assert log.lines == 3
    log.close()
    assert records(tmp_path) == [
        {"kind": "train", "step": 1, "loss": 2.5, "epoch": 1},
        {"kind": "train", "step": 2, "loss": 1.5, "epoch": 1},
        {"kind": "valid", "step": 2, "mask_AP": 0.25},
    ]
    assert scalars(tmp_path) == {
        "train/loss": [(1, 2.5), (2, 1.5)],
        "train/epoch": [(1, 1.0), (2, 1.0)],
        "valid/mask_AP": [(2, 0.25)],
    }


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf"), None, "text"])
def test_tensorboard_gets_only_finite_numbers(tmp_path: Path, odd: object) -> None:
    log = history(tmp_path)
    log.add("train", 1, {"loss": odd, "epoch": 1})
    log.close()
    assert scalars(tmp_path) == {"train/epoch": [(1, 1.0)]}
    logged = odd if isinstance(odd, str) else None
    assert records(tmp_path) == [{"kind": "train", "step": 1, "loss": logged, "epoch": 1}]


def test_a_record_can_be_read_at_once(tmp_path: Path) -> None:
    # A killed run closes no file.
    log = history(tmp_path)
    log.add("train", 1, {"loss": 2.5})
    assert len(records(tmp_path)) == 1
    log.close()


def interrupted(folder: Path) -> None:
    first = history(folder)
    for step in (1, 2, 3):
        first.add("train", step, {"loss": float(step)})
    first.close()


def test_history_is_rewound_to_the_checkpoint(tmp_path: Path) -> None:
    interrupted(tmp_path)
    second = history(tmp_path, lines=2, step=2)
    assert second.lines == 2
    assert [record["loss"] for record in records(tmp_path)] == [1.0, 2.0]
    second.add("train", 3, {"loss": 30.0})
    second.close()
    assert [record["loss"] for record in records(tmp_path)] == [1.0, 2.0, 30.0]
    assert second.lines == 3


def test_tensorboard_is_rewound_to_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tmp_path)
    # TensorBoard orders its files by the second in which they were created.
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    second = history(tmp_path, lines=2, step=2)
    second.add("train", 3, {"loss": 30.0})
    second.close()
    assert scalars(tmp_path) == {"train/loss": [(1, 1.0), (2, 2.0), (3, 30.0)]}


def test_a_new_history_starts_empty(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("of another run\n")
    history(tmp_path).close()
    assert (tmp_path / "history.jsonl").read_text() == ""


def test_a_new_history_needs_no_file(tmp_path: Path) -> None:
    log = history(tmp_path)
    log.close()
    assert log.lines == 0
    assert records(tmp_path) == []
