"""The page of suspected label errors: what is drawn before and after, and what it says."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segtune import label_issues_page
from segtune.reports import label_issues_page as page_module
from segtune.reports.drawing import CORRECT, ERROR
from tests.label_issue_runs import MISSING, NOTHING, POOR, WRONG, find_issues

FIGURE = re.compile(r'<figure class="before-after">.*?</figure>', re.S)


@pytest.fixture(scope="module")
def figures(pages: dict[str, Path]) -> dict[int, str]:
    """By image of train."""
    found = FIGURE.findall(pages["label_issues"].read_text("utf-8"))
    return {int(re.search(r"train/(\d+)\.png", figure)[1]): figure for figure in found}  # type: ignore[index]


def amounts(figure: str) -> list[tuple[int, int]]:
    """Pixels close to orange and to green in each of the two images."""
    found = []
    for text in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', figure):
        opened = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
        pixels = np.asarray(opened).astype(int)
        orange, green = (
            int((np.abs(pixels - [int(c[n : n + 2], 16) for n in (1, 3, 5)]).max(2) < 40).sum())
            for c in (ERROR, CORRECT)
        )
        found.append((orange, green))
    return found


def test_every_issue_is_drawn_before_and_after(figures: dict[int, str]) -> None:
    assert figures.keys() == {MISSING, WRONG, POOR, NOTHING}
    # Whether a label in question is drawn on the left, and a corrected one on the right.
    expected = {MISSING: (0, 1), WRONG: (1, 1), POOR: (1, 1), NOTHING: (1, 0)}
    for image, figure in figures.items():
        (orange, _), (_, green) = amounts(figure)
        assert (orange > 100, green > 100) == tuple(map(bool, expected[image])), figure[:80]
    (before, _), (_, after) = amounts(figures[POOR])
    assert after > 1.2 * before  # the outline of the whole square


def test_it_names_the_classes_before_and_after(figures: dict[int, str]) -> None:
    captions = {n: re.findall("<p>(.*?)</p>", figure) for n, figure in figures.items()}
    disc = "&lt;b&gt;&#34;&amp;&#39;disc"
    assert captions[MISSING] == ["no label", f"{disc} (0.90)"]
    assert captions[WRONG] == [disc, "square (0.90)"]
    assert captions[NOTHING] == [disc, "no label"]
    assert "<b>no object</b> train/3.png, annotation 900, issue score 1.00" in figures[NOTHING]


def test_the_table_counts_every_split(pages: dict[str, Path]) -> None:
    text = pages["label_issues"].read_text("utf-8")
    rows = re.findall(r'<tr><th scope="row">(\w+)</th>(.*?)</tr>', text)
    cells = {name: re.findall(r"<td>(\d+)</td>", row) for name, row in rows}
    assert cells == {
        "train": ["9", "1", "1", "1", "1", "4"],
        "valid": ["9", "0", "0", "0", "0", "0"],
        "test": ["6", "0", "0", "0", "0", "0"],
    }
    assert "<h1>4 suspected label errors</h1>" in text
    assert text.count("it agrees with the labels of this split") == 2


def test_of_very_many_issues_the_likeliest_are_drawn(
    pages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "MAX_SHOWN", 2)
    coco = pages["label_issues"].parents[1] / "coco"
    find_issues(coco, tmp_path)
    page = tmp_path / "page.html"
    options = [f"--issues={tmp_path / 'issues.json'}", f"--coco={coco}", f"--out={page}"]
    label_issues_page.main(options)
    assert len(FIGURE.findall(page.read_text())) == 2
    assert "Shown are 2 of 4, highest issue score first" in page.read_text()


def test_the_images_of_an_issue_are_side_by_side(browser: Any, pages: dict[str, Path]) -> None:
    browser.get(pages["label_issues"].as_uri())
    for figure in browser.find_elements("css selector", ".before-after"):
        left, right = figure.find_elements("tag name", "img")
        assert left.rect["y"] == right.rect["y"]
        assert left.rect["width"] + right.rect["width"] > 0.9 * figure.rect["width"]
        assert left.rect["x"] + left.rect["width"] <= right.rect["x"]
