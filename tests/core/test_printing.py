"""Nothing from a foreign file does something to a terminal."""

import pytest

from segtune.core.console import log_line, progress
from segtune.core.errors import DatasetError, exit_on_error, printable, shown

HOSTILE = "a\x1b[2J\x07\u202eb\u2028c\ud800\n\u009b31m"
ESCAPED = r"a\x1b[2J\x07\u202eb\u2028c\ud800\n\x9b31m"


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert printable(HOSTILE) == ESCAPED
    plain = "ä 猫 🐈 {x} [bold] \u00a0 'quotes'"
    assert printable(plain) == plain


def test_an_error_is_printed_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), exit_on_error("convert"):
        raise DatasetError(HOSTILE, file=HOSTILE, record=HOSTILE, fix=HOSTILE)
    text = capsys.readouterr().err
    line = text.removesuffix("\n")
    assert line.isprintable()
    assert line.count(ESCAPED) == 4


def test_progress_and_lines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    log_line(HOSTILE)
    with progress("image", 1) as advance:
        advance(note=HOSTILE)
    first, second = capsys.readouterr().out.splitlines()
    assert first == ESCAPED
    assert second.endswith(ESCAPED)


@pytest.mark.parametrize(
    "value", [10**4000, "x" * 10**6, [[[[[[[[1]]]]]]]], list(range(10**5)), {"a": "b" * 999}]
)
def test_a_foreign_value_is_cut(value: object) -> None:
    assert len(shown(value)) < 200
    assert shown("gone.jpg") == "'gone.jpg'"
