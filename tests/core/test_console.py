"""Progress: a few lines in a log, a live bar in a terminal."""

from collections.abc import Iterator

import pytest

from segtune.core.console import log_line, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [0.0]
    monkeypatch.setattr("segtune.core.console.time.monotonic", lambda: now[0])
    yield now


def test_a_log_gets_a_line_every_ten_seconds(
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


def test_a_resumed_loop_counts_from_where_it_stopped(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("step", 10, done=8) as advance:
        clock[0] += 3
        advance()
    assert capsys.readouterr().out == "step 9/10  3 s left\n"


def test_slow_items_get_a_line_each(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("image", 3) as advance:
        assert capsys.readouterr().out == ""
        for expected in ("image 1/3  40 s left\n", "image 2/3  20 s left\n"):
            clock[0] += 20
            advance()
            assert capsys.readouterr().out == expected


def test_several_items_can_be_finished_at_once(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("step", 10) as advance:
        clock[0] += 4
        advance(8)
        clock[0] += 1
        advance(2)
    assert capsys.readouterr().out == "step 8/10  1 s left\nstep 10/10  0 s left\n"


@pytest.mark.parametrize("terminal", ["", "1"])
def test_other_processes_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: str
) -> None:
    monkeypatch.setenv("FORCE_COLOR", terminal)
    with progress("step", 2, visible=False) as advance:
        advance()
        advance(1, note="loss 1.0")
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


def test_a_bar_starts_where_an_earlier_process_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("step", 10, done=8) as advance:
        advance()
    assert "9/10" in capsys.readouterr().out


def test_markup_is_printed_verbatim(capsys: pytest.CaptureFixture[str]) -> None:
    log_line("class [bold]x[/bold] " + "long " * 40)
    assert capsys.readouterr().out == "class [bold]x[/bold] " + "long " * 40 + "\n"
