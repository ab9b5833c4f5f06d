"""Prompts of classes: from the map or from the name."""

import shutil
from pathlib import Path

import pytest

from tests.conversion import convert, refused
from tests.export_writer import (
    set_categories,
    write_export,
)


def test_prompts_come_from_the_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = write_export(tmp_path / "export", set_categories((1, "7", "x"), (2, "cat", "x")))
    values = convert(export, tmp_path / "out", prompts={"7": "lucky number", "cat": "kitten"})
    prompts = {c["name"]: c["prompt"] for c in values["train"]["categories"]}
    assert prompts == {"7": "lucky number", "cat": "kitten", "big_dog": "big dog"}
    shutil.rmtree(tmp_path / "out")
    line = refused(export, tmp_path / "out", capsys, prompts={"kat": "x", "7": "y"})
    assert "'kat', which is not a class of this export. The closest classes are 'cat'" in line


@pytest.mark.parametrize("words", ["", "  "])
def test_an_empty_prompt_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    export = write_export(tmp_path / "export")
    line = refused(export, tmp_path / "out", capsys, prompts={"cat": words})
    assert "an empty prompt for the class 'cat'" in line
