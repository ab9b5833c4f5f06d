"""The page about a training: what it says, and that it stands alone."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from segtune.reports.training_page import headline, write_summary

RESULT = {"best_score": 0.5, "base_score": 0.1, "best_epoch": 2, "seconds": 120.0}
STEP = {"kind": "train", "images_per_second": 2.0, "data_wait_share": 0.25, "peak_memory_gb": 3.0}


def folder_of_run(folder: Path) -> Path:
    records: list[dict[str, Any]] = []
    for epoch in (0, 2):
        score = {"mask_AP": 0.1 + 0.2 * epoch, "per_class": {"<b>disc": 0.25}}
        records.append({"kind": "valid", "step": epoch, "epoch": epoch, **score})
    records += [{**STEP, "step": number, "loss": 8.0 - number} for number in range(4)]
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, records)))
    (folder / "valid_images").mkdir()
    for epoch in (0, 2):
        (folder / "valid_images" / f"epoch_000{epoch}.jpg").write_bytes(b"image")
    return folder


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(v) for k, v in attributes if k in ("src", "href")]


def test_the_page_says_what_happened(tmp_path: Path) -> None:
    recipe = {"result": RESULT, "settings": {"epochs": 2, "select_by": "AP", "note": "<script>"}}
    write_summary(folder_of_run(tmp_path), recipe, {"vision": (10, 1_000)})
    text = (tmp_path / "summary.html").read_text()
    assert "Epoch 2 was kept: AP 0.5000 on valid, better than the 0.1000 before" in text
    expected = "4 optimizer steps in 2.0 minutes, 2.0 images per second, 25 % of the time"
    assert expected in text
    assert "at most 3.0 GB" in text
    assert "<td>0.2500</td>" in text
    assert "From 8.000 to 5.000" in text
    page = Page(text)
    assert "b" not in page.tags
    assert "script" not in page.tags
    assert len(page.links) == 2
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)


@pytest.mark.parametrize(
    ("best", "word"), [(0.2, "better"), (0.1, "NOT better"), (0, "NOT better")]
)
def test_a_training_that_did_not_help_says_so(best: float, word: str) -> None:
    assert f", {word} than the 0.1000" in headline(
        {"result": {**RESULT, "best_score": best}, "settings": {"select_by": "AP"}}
    )
