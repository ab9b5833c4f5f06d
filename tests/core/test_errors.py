"""Errors carry their evidence, and users see one line."""

from pathlib import Path

import pytest

from segtune.core.errors import ExportError, SegtuneError, exit_on_error


def test_an_error_names_file_record_problem_and_fix() -> None:
    error = ExportError("is bad", file=Path("a/b.json"), record="annotation 3", fix="Correct it")
    assert str(error) == "a/b.json: annotation 3: is bad. Correct it"
    assert (error.file, error.record) == ("a/b.json", "annotation 3")
    assert (error.problem, error.fix) == ("is bad", "Correct it")
    assert str(ExportError("is bad")) == "is bad"


def test_a_users_error_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised, exit_on_error("convert"):
        raise ExportError("is bad")
    assert raised.value.code == 1
    assert capsys.readouterr().err == "segtune convert: ExportError: is bad\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_error("convert"):
        _ = 1 / 0


def test_all_errors_have_one_base_class() -> None:
    assert issubclass(ExportError, SegtuneError)
