"""The page of several runs: what it says, in a real browser, too."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from segtune import runs, runs_page
from tests.predictions import perfect, shifted
from tests.results_folders import copy_data, finish, write_data


@pytest.fixture(scope="module")
def page(pages: dict[str, Path]) -> Path:
    return pages["runs"]


@pytest.fixture(scope="module")
def values(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((page.parent / "runs.json").read_text())
    return found


def texts(browser: Any, page: Path, selector: str) -> list[str]:
    browser.get(page.as_uri())
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent.trim())",
        selector,
    )
    return found


def section(browser: Any, page: Path, name: str) -> str:
    (text,) = texts(browser, page, f"section[aria-labelledby='{name}']")
    return " ".join(text.split())


def test_the_outcome_and_leaks_come_first(browser: Any, page: Path) -> None:
    assert texts(browser, page, "h1") == ["2 runs compared with <i>old: 1 better, 1 worse"]
    assert texts(browser, page, "h2")[:4] == [
        "Leaks",
        "Runs",
        "same compared with <i>old",
        "other compared with <i>old",
    ]
    leaks = section(browser, page, "leaks")
    assert "3 test images of <i>old are in the train split of other" in leaks


def test_other_test_sets_are_named(browser: Any, page: Path, values: dict[str, Any]) -> None:
    same, other = (section(browser, page, f"run-{number}") for number in (1, 2))
    assert "Both were tested on the same images, classes and labels." in same
    assert "The test sets differ: 3 test images only in <i>old; other labels in 1" in other
    assert "Both have 9 test images; where their labels differ, those of <i>old are" in other
    shared = ", ".join(image for image in values["comparisons"][1]["test"]["shared"])
    assert f"In both test splits: 9 images {shared}" in other
    assert "Only in that of <i>old: 3 images test/1.png, test/2.png, test/3.png" in other
    assert "In both test splits" not in same
    assert "on 9 images with" in other and "on 12 images with" in same
    for text, comparison in zip((same, other), values["comparisons"], strict=True):
        score = comparison["scores"]["average_precision"]["mask"]
        assert f"{score['reference']:.3f} → {comparison['run']} {score['run']:.3f}" in text
        assert f"{score['interval']['difference']:+.3f}" in text


def test_what_improved_and_what_got_worse_is_named(browser: Any, page: Path) -> None:
    same, other = (section(browser, page, f"run-{number}") for number in (1, 2))
    assert "Improved: <b>\"&'disc, square. Got worse: no class significantly." in same
    assert "Improved: no class significantly. Got worse: <b>\"&'disc, square." in other


def test_images_are_next_to_each_other(browser: Any, page: Path, values: dict[str, Any]) -> None:
    browser.get(page.as_uri())
    figures = browser.find_elements("css selector", "figure.triple")
    assert len(figures) == len(values["images"]) > 0
    for figure, shown in zip(figures, values["images"], strict=True):
        images = figure.find_elements("css selector", "img")
        titles = ["ground truth", *(run["name"] for run in shown["runs"])]
        name = shown["file_name"]
        assert [i.get_attribute("alt") for i in images] == [f"{t} in {name}" for t in titles]
        assert len({i.rect["y"] for i in images}) == 1


def test_data_and_settings_are_listed(browser: Any, page: Path) -> None:
    data = section(browser, page, "data")
    assert "train, moved here from test: 3 images test/1.png, test/2.png, test/3.png" in data
    assert "Renamed classes: square → box." in data
    assert "Other prompts: box: “square” → “a box”." in data
    cells = texts(browser, page, "section[aria-labelledby='settings'] tbody :is(th, td)")
    assert cells == [
        *("merge.strength", "1.0", "1.0", "0.5"),
        *("train.note", "not recorded", "not recorded", '"<script>\\"x"'),
    ]


def write_page(folder: Path, *folders: Path) -> str:
    runs.main([*map(str, folders), "--out", str(folder)])
    page = folder / "runs.html"
    runs_page.main([f"--runs={folder / 'runs.json'}", f"--out={page}"])
    return page.read_text("utf-8")


def test_two_equal_runs_need_no_images_and_no_settings(tmp_path: Path) -> None:
    coco = write_data(tmp_path / "old")
    text = write_page(tmp_path, finish(coco), finish(copy_data(coco, tmp_path / "new")))
    assert '<p class="status">Undecided</p>' in text
    assert "None of the recorded settings differs" in text
    assert "<img" not in text and 'id="leaks"' not in text


def test_boxes_are_drawn_where_there_are_no_masks(tmp_path: Path) -> None:
    coco = write_data(tmp_path / "old")
    for path in (coco / f"{split}.json" for split in ("train", "valid", "test")):
        path.write_text(
            re.sub(r'"segmentation": \[\[.*?\]\]', '"segmentation": []', path.read_text())
        )
    old = finish(coco)
    new = copy_data(coco, tmp_path / "new")
    text = write_page(tmp_path, old, finish(new, shifted(perfect(new), 10)))
    assert "<h3>box AP</h3>" in text and "<h3>mask AP</h3>" not in text
    images = json.loads((tmp_path / "runs.json").read_text())["images"]
    assert images and all(d["rle"] is None for i in images for d in i["runs"][1]["detections"])


def test_a_damaged_file_is_refused(
    page: Path, values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = json.loads(json.dumps(values))
    changed["images"][0]["ground_truth"][0]["rle"]["counts"] = "0" * 99
    (tmp_path / "runs.json").write_text(json.dumps(changed))
    out = tmp_path / "runs.html"
    with pytest.raises(SystemExit, match="1"):
        runs_page.main([f"--runs={tmp_path / 'runs.json'}", f"--out={out}"])
    error = capsys.readouterr().err
    assert f"DatasetError: {tmp_path / 'runs.json'}: test/" in error
    assert "Run segtune.runs again" in error
    assert not out.exists()
