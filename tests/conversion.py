"""Running a conversion in a test: what it writes, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtune.convert import main
from segtune.core.config import ConvertSettings
from segtune.exports import reader
from segtune.exports.reader import Export
from tests.export_writer import Values, write_export


def convert(export: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """Convert an export; return the content of every file written, by its stem."""
    main(["--export", str(export), "--out", str(out), "--settings", json.dumps(settings)])
    return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}


def converted(
    tmp_path: Path, change: Callable[[Values], object], **settings: Any
) -> dict[str, Any]:
    """Convert a small export whose training split was changed by `change`."""
    return convert(write_export(tmp_path / "export", change), tmp_path / "out", **settings)


def refused(export: Path, out: Path, capsys: pytest.CaptureFixture[str], **settings: Any) -> str:
    """The one line that a conversion must fail with, having written nothing."""
    with pytest.raises(SystemExit) as raised:
        convert(export, out, **settings)
    assert raised.value.code == 1
    assert not list(out.glob("*.json"))
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def rules(values: dict[str, Any]) -> dict[str, int]:
    """Rule -> number of repairs, of the log of a conversion."""
    return {repair["rule"]: repair["count"] for repair in values["conversion"]["repairs"]}


def read_export(export: Path, unpacked: Path) -> Export:
    """Read an export with the default settings."""
    return reader.read_export(export, unpacked, ConvertSettings())
