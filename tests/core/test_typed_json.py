"""Dataclasses as JSON: they come back equal, or one error names the file and the field."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from segtune.core.errors import DatasetError
from segtune.core.typed_json import read_typed, write_typed

FIX = "Run it again"


@dataclass(frozen=True)
class Point:
    """A value inside another."""

    name: str
    score: float | None


@dataclass(frozen=True)
class Curve:
    """Values in tuples and dictionaries."""

    points: tuple[Point, ...]
    best: dict[str, Point]


CURVE = Curve(points=(Point("one", 0.1), Point("two", None)), best={"AP": Point("one", 1 / 3)})


def test_a_nested_dataclass_comes_back_equal(tmp_path: Path) -> None:
    write_typed(tmp_path / "curve.json", CURVE)
    assert read_typed(tmp_path / "curve.json", Curve, FIX) == CURVE


def test_a_missing_file_is_named_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "gone.json"
    with pytest.raises(DatasetError, match="cannot read the file") as raised:
        read_typed(path, Curve, FIX)
    assert raised.value.file == str(path)
    assert raised.value.fix == FIX


@pytest.mark.parametrize("wrong", ['"high"', "[]"])
def test_a_wrong_field_is_named_with_its_file_and_the_fix(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "curve.json"
    write_typed(path, CURVE)
    path.write_text(path.read_text().replace("null", wrong))
    with pytest.raises(DatasetError, match=r"points\.1\.score.*cannot read the file") as raised:
        read_typed(path, Curve, FIX)
    assert raised.value.file == str(path)
    assert raised.value.fix == FIX
