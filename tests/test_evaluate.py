"""Evaluation: the verdict, the tables and the report, from predictions made by hand."""

import csv
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from segtune.coco import read_split, segmentation_to_rle
from segtune.evaluate import main
from tests.converted import SIDE, write_converted


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_converted(tmp_path)


def perfect(coco: Path, score: float = 0.9) -> list[dict[str, Any]]:
    split = read_split(coco / "test.json")
    return [
        {
            "image_id": a.image_id,
            "category_id": a.category_id,
            "bbox": list(a.bbox_xywh),
            "score": score,
            "segmentation": segmentation_to_rle(
                a.segmentation or [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]], SIDE, SIDE
            ),
        }
        for found in split.annotations.values()
        for a in found
    ]


def evaluate(coco: Path, base: Any, tuned: Any, **settings: Any) -> dict[str, Any]:
    folder = coco.parent
    for name, results in (("base", base), ("tuned", tuned)):
        text = results if isinstance(results, str) else json.dumps(results)
        (folder / f"{name}.json").write_text(text)
    paths = [f"--{n}={folder / n}.json" for n in ("base", "tuned")]
    out = folder / "evaluate"
    main(
        [
            f"--coco={coco / 'test.json'}",
            *paths,
            f"--out={out}",
            f"--settings={json.dumps(settings)}",
        ]
    )
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


def test_better_worse_and_equal_are_said_first(coco: Path) -> None:
    best = perfect(coco)
    better = evaluate(coco, [], best)
    assert better["verdict"].startswith("fine-tuned is better than zero-shot")
    assert "mask AP 1.0000 against 0.0000 (+1.0000)" in better["verdict"]
    assert better["tuned"]["mask"]["AP"] == pytest.approx(1.0)
    assert better["base"]["box"]["AP"] == 0.0
    worse = evaluate(coco, best, [])
    assert worse["verdict"].startswith("fine-tuned is WORSE than zero-shot")
    assert "(-1.0000)" in worse["verdict"]
    assert evaluate(coco, best, best)["verdict"].startswith("fine-tuned is equal to zero-shot")
    report = (coco.parent / "evaluate" / "report.html").read_text()
    assert report.index("<h1>fine-tuned is equal") < report.index("<table>")


def test_the_table_has_a_row_for_each_class(coco: Path) -> None:
    evaluate(coco, [], perfect(coco))
    with (coco.parent / "evaluate" / "per_class.csv").open() as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["disc", "square", "cross"]
    assert float(rows["disc"]["tuned_mask_AP"]) == pytest.approx(1.0)
    assert float(rows["disc"]["base_mask_AP"]) == 0.0
    assert rows["cross"]["tuned_mask_AP"] == ""  # there is none in this split


def test_the_score_of_a_false_alarm_is_a_setting(coco: Path) -> None:
    split = read_split(coco / "test.json")
    empty = next(i.id for i in split.images if not split.annotations[i.id])
    alarm = {**perfect(coco)[0], "image_id": empty, "category_id": 3, "score": 0.4}
    assert evaluate(coco, [], [alarm])["tuned"]["false_alarms"]["cross"] == 0.0
    found = evaluate(coco, [], [alarm], false_alarm_score=0.4)["tuned"]["false_alarms"]
    assert found["cross"] == pytest.approx(1 / 4)


def test_a_split_without_masks_is_judged_by_boxes(tmp_path: Path) -> None:
    coco = write_converted(tmp_path, masks=False)
    metrics = evaluate(coco, [], perfect(coco))
    assert metrics["tuned"]["mask"] is None
    assert "box AP 1.0000 against 0.0000" in metrics["verdict"]
    assert metrics["counts"]["box_only_objects"] == metrics["counts"]["objects"] == 3
    assert "<h2>Masks</h2>" not in (tmp_path / "evaluate" / "report.html").read_text()


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "p", "html"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("p", "html"):
            assert self.open.pop() == tag


def test_the_report_is_self_contained_and_escapes_names(coco: Path) -> None:
    for split in ("train", "valid", "test"):
        values = json.loads((coco / f"{split}.json").read_text())
        values["categories"][0]["name"] = "<b>&"
        (coco / f"{split}.json").write_text(json.dumps(values))
    evaluate(coco, [], perfect(coco))
    text = (coco.parent / "evaluate" / "report.html").read_text()
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.links == []


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ("{", "not COCO results"),
        ("[{}]", "not COCO results"),
        ('{"a": 1}', "not COCO results"),
        ([{"image_id": 99, "category_id": 1}], "1 detections on pictures or classes"),
        ([{"image_id": 1, "category_id": 99}], "1 detections on pictures or classes"),
    ],
)
def test_predictions_of_something_else_are_refused(
    coco: Path, capsys: pytest.CaptureFixture[str], tuned: Any, message: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        evaluate(coco, [], tuned)
    assert raised.value.code == 1
    assert message in capsys.readouterr().err
    assert not (coco.parent / "evaluate").exists()
