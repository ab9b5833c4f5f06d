"""The page of what to label next: every image with its pre-labels and the reason for it."""

import html
import re
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def page(pages: dict[str, Path]) -> Path:
    return pages["suggest"]


def captions(text: str) -> list[list[str]]:
    """The lines below each image."""
    found = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.S)
    return [[html.unescape(line) for line in caption.split("<br>")] for caption in found]


def test_each_image_has_its_rank_and_its_reason(page: Path, name: str) -> None:
    text = page.read_text("utf-8")
    assert "3 of 12 images to label next" in text
    assert (
        "Left out: 2 copies of images in the dataset, and 1 of other images in the folder." in text
    )
    assert captions(text) == [
        [
            "<b>1. test/1.png</b>",
            f"5 uncertain {name} (0.20, 0.30, 0.41, 0.50, …); 1 uncertain square (0.50); "
            f"{name} has AP 0.21; square has no AP; unlike the training images",
            "1 pre-label",
        ],
        ["<b>2. test/2.png</b>", "1 uncertain square (0.50); square has no AP", "1 pre-label"],
        [
            "<b>3. test/3.png</b>",
            "no uncertain detections; similar to a training image",
            "0 pre-labels",
        ],
    ]


def test_the_classes_have_their_weights(page: Path) -> None:
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', page.read_text("utf-8"))
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
    assert cells == [["0.210", "0.790", "0.300"], ["n/a", "1.000", "0.500"]]


def test_a_browser_shows_the_images_with_their_pre_labels(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    figures = browser.find_elements("css selector", "figure")
    assert [figure.text.partition("\n")[0] for figure in figures] == [
        f"{rank}. test/{rank}.png" for rank in (1, 2, 3)
    ]
    # The outline of a pre-label, in the color of its class; the third image has none.
    orange = """
        const image = document.images[arguments[0]], canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        const values = context.getImageData(0, 0, canvas.width, canvas.height).data;
        let found = 0;
        for (let i = 0; i < values.length; i += 4)
            found += values[i] > 140 && values[i] - values[i + 2] > 80 && values[i + 1] > 80;
        return found"""
    counts = [browser.execute_script(orange, place) for place in range(3)]
    assert counts[0] > 100 and counts[2] == 0
