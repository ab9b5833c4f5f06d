"""The gate before training: errors stop it, warnings are counted, and a page shows both."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtune import validate_page
from segtune.dataset.checks import MAX_EXAMPLES
from tests.export_writer import first
from tests.validate_runs import edit, page_of, report_of, validate, write_dataset


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("images"),
        lambda v: v.update(images=[1]),
        lambda v: v["images"][0].pop("sha256"),
    ],
)
def test_a_damaged_manifest_is_an_error(
    coco: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object]
) -> None:
    edit(coco, "manifest", change)
    with pytest.raises(SystemExit):
        validate(coco)
    assert "manifest.json: not a converted dataset" in capsys.readouterr().err


def test_the_output_is_short_and_the_report_is_long(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def add_empty_boxes(values: dict[str, Any]) -> None:
        values["annotations"] = [
            {**first(values), "id": n, "bbox": [0, 0, 0, 0]} for n in range(1, MAX_EXAMPLES + 3)
        ]

    edit(coco, "train", add_empty_boxes)
    with pytest.raises(SystemExit):
        validate(coco)
    (problem,) = report_of(coco)["errors"]
    assert problem["count"] == MAX_EXAMPLES + 2
    assert len(problem["examples"]) == MAX_EXAMPLES
    (line,) = capsys.readouterr().err.splitlines()
    assert "empty box, or box beyond its image (train: object 1 in" in line
    assert f"and {MAX_EXAMPLES - 1} more): run segtune.convert again" in line
    assert line.endswith("errors.html")
    assert len(line) < 600


def test_a_long_name_does_not_fill_the_output(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(coco, "train", lambda v: v["images"][0].update(file_name="9" * 100_000))
    with pytest.raises(SystemExit):
        validate(coco)
    (line,) = capsys.readouterr().err.splitlines()
    assert "missing image" in line
    assert len(line) < 1000


def test_the_page_shows_as_many_examples_as_are_wanted(coco: Path) -> None:
    edit(coco, "train", lambda v: [a.update(bbox=[0, 0, 0, 0]) for a in v["annotations"]])
    with pytest.raises(SystemExit):
        validate(coco)
    examples = report_of(coco)["errors"][0]["examples"]
    text = page_of(coco, max_examples=1)
    assert '<header class="bad">' in text
    assert "2 places. How to fix it: run segtune.convert again." in text
    assert [example in text for example in examples] == [True, False]
    assert "<li>and 1 more</li>" in text
    text = page_of(coco)
    assert all(example in text for example in examples)
    assert "1 more" not in text


def test_the_page_says_whether_a_dataset_is_valid(coco: Path) -> None:
    validate(coco)
    text = page_of(coco)
    assert "<h1>The dataset is valid</h1>" in text
    assert '<th scope="row">big_dog</th><td>1</td>' in text
    edit(coco, "valid", lambda v: first(v).update(category_id=2))
    validate(coco)
    assert "<h1>The dataset is valid, with warnings of 1 kind</h1>" in page_of(coco)


@pytest.mark.parametrize("text", [None, "{}", '{"errors": [1], "warnings": [], "splits": {}}'])
def test_a_report_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    path = tmp_path / "report.json"
    if text:
        path.write_text(text)
    with pytest.raises(SystemExit) as raised:
        validate_page.main(["--report", str(path), "--out", str(tmp_path / "report.html")])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"report\.json: (\S+: )?cannot read the file", line)
    assert not (tmp_path / "report.html").exists()


def test_the_page_escapes_names(coco: Path) -> None:
    for name in ("train", "valid", "test"):
        edit(coco, name, lambda v: v["categories"][0].update(name="<script>&"))
    validate(coco)
    text = page_of(coco)
    assert "<script>" not in text
    assert "&lt;script&gt;&amp;" in text


def test_errors_have_a_page_that_no_rule_declares(coco: Path) -> None:
    edit(coco, "train", lambda values: values.update(annotations=[]))
    page = coco.parent / "validate" / "errors.html"
    with pytest.raises(SystemExit):
        validate(coco)
    assert "training split without objects" in page.read_text("utf-8")


def test_the_page_of_errors_goes_when_they_are_fixed(coco: Path) -> None:
    page = coco.parent / "validate" / "errors.html"
    page.parent.mkdir()
    page.write_text("old")
    validate(coco)
    assert not page.exists()
