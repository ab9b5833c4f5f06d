"""What people see: few lines in a log, a live line in a terminal, a faithful history."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from segtune.history import History
from segtune.reporting import progress, say


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr("segtune.reporting.time.monotonic", lambda: now[0])
    yield now


def test_a_log_gets_a_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("step", 100) as advance:
        for _ in range(100):
            clock[0] += 0.5
            advance(note="loss 1.0")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [
        "1/100",
        "21/100",
        "41/100",
        "61/100",
        "81/100",
        "100/100",
    ]
    assert lines[1] == "step 21/100  40 s left  loss 1.0"
    assert lines[-1] == "step 100/100  0 s left  loss 1.0"


def test_a_resumed_loop_counts_from_where_it_was(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("step", 10, done=8) as advance:
        clock[0] += 3
        advance()
    assert capsys.readouterr().out == "step 9/10  3 s left\n"


def test_other_processes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("step", 2, visible=False) as advance:
        advance()
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("step", 2) as advance:
        advance(2, "loss 1.0")
    text = capsys.readouterr().out
    assert "2/2" in text
    assert "loss 1.0" in text
    assert "s left" not in text


def test_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("class [bold]x[/bold] " + "long " * 40)
    assert capsys.readouterr().out == "class [bold]x[/bold] " + "long " * 40 + "\n"


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.tensor.float_val[0]
        for path in sorted(folder.glob("events*"))
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }


def test_history_goes_to_a_file_and_to_tensorboard(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl", tmp_path / "board", lines=0, step=0)
    history.add("train", 1, {"loss": 2.5, "epoch": 1})
    history.add("valid", 1, {"mask_AP": 0.25, "odd": float("nan")})
    history.close()
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert records[0] == {"kind": "train", "step": 1, "loss": 2.5, "epoch": 1}
    shown = scalars(tmp_path / "board")
    assert shown[("train/loss", 1)] == 2.5
    assert shown[("valid/mask_AP", 1)] == 0.25
    assert ("valid/odd", 1) not in shown


def test_history_is_taken_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    first = History(path, tmp_path / "board", lines=0, step=0)
    for step in (1, 2, 3):
        first.add("train", step, {"loss": float(step)})
    first.close()
    second = History(path, tmp_path / "board", lines=2, step=2)
    second.add("train", 3, {"loss": 30.0})
    second.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["loss"] for record in records] == [1.0, 2.0, 30.0]
    assert second.lines == 3


def test_a_new_history_starts_empty(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("of another run\n")
    History(tmp_path / "history.jsonl", tmp_path / "board", lines=0, step=0).close()
    assert (tmp_path / "history.jsonl").read_text() == ""
