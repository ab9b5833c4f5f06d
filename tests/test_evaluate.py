"""Evaluation: the verdict, the tables and the report, from predictions made by hand."""

import csv
import json
import re
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


def test_better_worse_and_undecided_are_said_first(coco: Path) -> None:
    best = perfect(coco)
    better = evaluate(coco, [], best)
    assert better["verdict"].startswith("fine-tuned is better than zero-shot")
    assert "mask AP 1.0000 fine-tuned against 0.0000 zero-shot (+1.0000, " in better["verdict"]
    assert better["tuned"]["mask"]["AP"] == pytest.approx(1.0)
    assert better["base"]["box"]["AP"] == 0.0
    worse = evaluate(coco, best, [])
    assert worse["verdict"].startswith("fine-tuned is WORSE than zero-shot")
    assert "(-1.0000, 95 % interval -1.0000 to -1.0000)" in worse["verdict"]
    assert evaluate(coco, best, best)["verdict"].startswith("undecided between both")
    report = (coco.parent / "evaluate" / "report.html").read_text()
    assert report.index("<h1>undecided between") < report.index("<table>")


def shifted(results: list[dict[str, Any]], pixels: int) -> list[dict[str, Any]]:
    """The same squares, boxes and masks alike, further down."""
    moved = []
    for result in results:
        x, y, w, h = result["bbox"]
        square = [[x, y + pixels, x + w, y + pixels, x + w, y + pixels + h, x, y + pixels + h]]
        rle = segmentation_to_rle(square, SIDE, SIDE)
        moved.append({**result, "bbox": [x, y + pixels, w, h], "segmentation": rle})
    return moved


def test_the_verdict_is_about_masks_where_there_are_some(coco: Path) -> None:
    best = perfect(coco)
    boxes_alone = [
        {**good, "segmentation": poor["segmentation"]}
        for good, poor in zip(best, shifted(best, 8), strict=True)
    ]
    masks_alone = [
        {**good, "bbox": poor["bbox"]} for good, poor in zip(best, shifted(best, 8), strict=True)
    ]
    metrics = evaluate(coco, boxes_alone, masks_alone)
    assert metrics["tuned"]["box"]["AP"] < metrics["base"]["box"]["AP"]
    assert "better than zero-shot" in metrics["verdict"]
    assert "mask AP 1.0000 fine-tuned against" in metrics["verdict"]


def test_the_table_has_a_row_for_each_class(coco: Path) -> None:
    split = read_split(coco / "test.json")
    best = perfect(coco)
    empty = next(i.id for i in split.images if not split.annotations[i.id])
    alarm = {**best[0], "image_id": empty, "category_id": 3}
    # 24 x 16 of 24 x 32 overlap: an IoU of 1/2 passes 0.50 alone of ten.
    half = {**best[0], "bbox": shifted(best, 8)[0]["bbox"]}
    metrics = evaluate(coco, [half, alarm], best)
    with (coco.parent / "evaluate" / "per_class.csv").open() as file:
        reader = csv.DictReader(file)
        rows = {row.pop("class"): row for row in reader}
    assert reader.fieldnames == [
        "class",
        *("base_box_AP", "base_mask_AP", "base_false_alarms"),
        *("tuned_box_AP", "tuned_mask_AP", "tuned_false_alarms"),
        *("difference", "difference_low", "difference_high"),
    ]
    assert list(rows) == ["disc", "square", "cross"]
    for name, row in rows.items():
        for column, text in row.items():
            model, _, kind = column.partition("_")
            if model == "difference":
                found = metrics["difference"]["mask"]["per_class"][name]
                value = found[kind or "difference"]
                assert text == ("" if value is None else str(value))
                continue
            found = metrics[model]
            value = (
                found[kind][name]
                if kind == "false_alarms"
                else (found[kind.removesuffix("_AP")]["per_class"][name])
            )
            assert text == ("" if value is None else str(value))
    assert float(rows["disc"]["base_box_AP"]) < 0.1 < float(rows["disc"]["base_mask_AP"]) < 1
    assert float(rows["disc"]["tuned_mask_AP"]) == pytest.approx(1.0)
    assert float(rows["square"]["base_mask_AP"]) == 0.0
    assert rows["cross"]["tuned_mask_AP"] == ""  # there is none in this split
    assert float(rows["cross"]["base_false_alarms"]) == pytest.approx(1 / 4)


def test_the_score_of_a_false_alarm_is_a_setting(coco: Path) -> None:
    split = read_split(coco / "test.json")
    empty = next(i.id for i in split.images if not split.annotations[i.id])
    alarm = {**perfect(coco)[0], "image_id": empty, "category_id": 3, "score": 0.4}
    assert evaluate(coco, [], [alarm])["tuned"]["false_alarms"]["cross"] == 0.0
    found = evaluate(coco, [alarm], [alarm], false_alarm_score=0.4)
    assert found["base"]["false_alarms"]["cross"] == pytest.approx(1 / 4)
    assert found["tuned"]["false_alarms"]["cross"] == pytest.approx(1 / 4)


def test_objects_with_a_box_alone_are_counted(coco: Path) -> None:
    best = perfect(coco)
    values = json.loads((coco / "test.json").read_text())
    values["annotations"][0]["segmentation"] = []
    (coco / "test.json").write_text(json.dumps(values))
    metrics = evaluate(coco, [], best)
    assert metrics["counts"] == {"images": 4, "objects": 3, "box_only_objects": 1}
    assert metrics["tuned"]["mask"]["ignored"] == 1
    assert metrics["tuned"]["mask"]["AP"] == pytest.approx(1.0)
    assert metrics["tuned"]["box"]["ignored"] == 0
    report = (coco.parent / "evaluate" / "report.html").read_text()
    assert "4 pictures and 3 objects of the test split, 1 of them without a mask" in report


def test_an_empty_test_split_decides_nothing(coco: Path) -> None:
    values = json.loads((coco / "test.json").read_text())
    (coco / "test.json").write_text(json.dumps({**values, "annotations": []}))
    metrics = evaluate(coco, [], [])
    assert metrics["verdict"] == "undecided: the test split holds nothing to measure"
    assert metrics["difference"]["box"]["AP"] == {"difference": None, "low": None, "high": None}


def test_the_number_of_draws_is_a_setting(coco: Path) -> None:
    best = perfect(coco)
    few = evaluate(coco, shifted(best, 2), best[1:], resamples=3)["difference"]["mask"]["AP"]
    many = evaluate(coco, shifted(best, 2), best[1:])["difference"]["mask"]["AP"]
    assert few["difference"] == many["difference"]
    assert (few["low"], few["high"]) != (many["low"], many["high"])


def test_a_split_without_masks_is_judged_by_boxes(tmp_path: Path) -> None:
    coco = write_converted(tmp_path, masks=False)
    metrics = evaluate(coco, [], perfect(coco))
    assert metrics["tuned"]["mask"] is metrics["base"]["mask"] is None
    assert metrics["tuned"]["box"]["AP"] == pytest.approx(1.0)
    assert "box AP 1.0000 fine-tuned against 0.0000" in metrics["verdict"]
    assert metrics["counts"]["box_only_objects"] == metrics["counts"]["objects"] == 3
    assert "<h2>Masks</h2>" not in (tmp_path / "evaluate" / "report.html").read_text()


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
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
    assert not re.search(r"://|url\(|@import|<script", text)


NOT_RESULTS = "not COCO results"
ANSWER = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]}
MASK = segmentation_to_rle([[1.0, 2.0, 9.0, 2.0, 9.0, 9.0]], SIDE, SIDE)


@pytest.mark.parametrize("model", ["base", "tuned"])
@pytest.mark.parametrize(
    ("results", "message"),
    [
        ("{", NOT_RESULTS),
        ("null", NOT_RESULTS),
        ("[{}]", NOT_RESULTS),
        ('{"a": 1}', NOT_RESULTS),
        ([{**ANSWER, "image_id": 99}], "1 detections on pictures or classes"),
        ([{**ANSWER, "category_id": 99}], "1 detections on pictures or classes"),
    ],
)
def test_predictions_of_something_else_are_refused(
    coco: Path, capsys: pytest.CaptureFixture[str], results: Any, message: str, model: str
) -> None:
    require_refusal(coco, capsys, model, results, message)


@pytest.mark.parametrize(
    "results",
    [
        "{}",
        '""',
        [ANSWER],
        [{**ANSWER, "segmentation": [[1, 2, 9, 2, 9, 9]]}],
        [{**ANSWER, "segmentation": MASK, "bbox": [1, 2, 3]}],
        [{**ANSWER, "segmentation": MASK, "score": "high"}],
        [{**ANSWER, "segmentation": MASK, "score": float("nan")}],
        [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": MASK}],
    ],
    ids=[
        "object",
        "text",
        "no_mask",
        "polygon",
        "short_bbox",
        "score_text",
        "score_nan",
        "no_score",
    ],
)
def test_results_that_cannot_be_scored_are_refused(
    coco: Path, capsys: pytest.CaptureFixture[str], results: Any
) -> None:
    require_refusal(coco, capsys, "tuned", results, NOT_RESULTS)


def require_refusal(
    coco: Path, capsys: pytest.CaptureFixture[str], model: str, results: Any, message: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        evaluate(coco, **{"base": [], "tuned": [], model: results})
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"segtune evaluate: DatasetError: {coco.parent / model}.json: ")
    assert message in line
    assert not (coco.parent / "evaluate").exists()


def test_predictions_that_are_missing_are_one_line(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (coco.parent / "base.json").write_text("[]")
    paths = [f"--{name}={coco.parent / name}.json" for name in ("base", "tuned")]
    with pytest.raises(SystemExit) as raised:
        main([f"--coco={coco / 'test.json'}", *paths, f"--out={coco.parent / 'evaluate'}"])
    assert raised.value.code == 1
    assert "tuned.json" in capsys.readouterr().err
