"""The evaluate command: the verdict and the tables, from predictions made by hand."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segtune.core.typed_json import write_typed
from segtune.dataset.coco import read_split
from segtune.evaluate import main
from segtune.evaluation.metrics import read_metrics
from tests.converted import write_converted
from tests.evaluate_runs import Predictions, empty_image, evaluate, evaluate_with_more, run
from tests.predictions import detected, perfect, prompted_text, shifted


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_converted(tmp_path)


def test_the_verdict_is_better_worse_or_undecided(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = perfect(coco)
    better = evaluate(coco, [], best)
    sentence = better["verdict"]["sentence"]
    assert better["verdict"]["outcome"] == "better"
    assert sentence.startswith("fine-tuned is better than zero-shot")
    assert "mask AP 1.0000 fine-tuned vs. 0.0000 zero-shot (+1.0000, " in sentence
    assert capsys.readouterr().out == f"{sentence}\n"
    assert better["tuned"]["mask"]["AP"] == pytest.approx(1.0)
    assert better["base"]["box"]["AP"] == 0.0
    worse = evaluate(coco, best, [])["verdict"]
    assert worse["outcome"] == "worse"
    assert worse["sentence"].startswith("fine-tuned is WORSE than zero-shot")
    assert "(-1.0000, 95% interval -1.0000 to -1.0000)" in worse["sentence"]
    undecided = evaluate(coco, best, best)["verdict"]
    assert undecided["outcome"] == "undecided"
    assert undecided["sentence"].startswith("undecided between fine-tuned and zero-shot")


def test_only_metrics_and_the_table_are_written(coco: Path) -> None:
    evaluate(coco, [], [])
    written = {path.name for path in (coco.parent / "evaluate").iterdir()}
    assert written == {"metrics.json", "per_class.csv"}


def test_written_metrics_are_read_again(coco: Path, tmp_path: Path) -> None:
    poor = shifted(perfect(coco), 4)
    ood = prompted_text(["horse"], poor[:1])
    on_valid = [detected(label) for label in read_split(coco / "valid.json").objects]
    stray = replace(shifted(on_valid[:1], 30)[0], score=0.8)
    evaluate_with_more(
        coco,
        base=poor[1:],
        base_valid=[],
        tuned_valid=[*on_valid, stray],
        base_ood=ood,
        tuned_ood=ood,
    )
    path = coco.parent / "evaluate" / "metrics.json"
    metrics = read_metrics(path)
    assert metrics.forgetting is not None and metrics.label_issues
    write_typed(tmp_path / "again.json", metrics)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert read_metrics(tmp_path / "again.json") == metrics


def test_the_verdict_is_about_masks_where_there_are_some(coco: Path) -> None:
    best = perfect(coco)
    pairs = list(zip(best, shifted(best, 8), strict=True))
    good_boxes = [replace(good, rle=poor.rle) for good, poor in pairs]
    good_masks = [replace(good, bbox_xywh=poor.bbox_xywh) for good, poor in pairs]
    metrics = evaluate(coco, good_boxes, good_masks)
    assert metrics["tuned"]["box"]["AP"] < metrics["base"]["box"]["AP"]
    assert metrics["verdict"]["outcome"] == "better"
    assert "mask AP 1.0000 fine-tuned vs." in metrics["verdict"]["sentence"]


def expected_row(metrics: dict[str, Any], name: str) -> dict[str, float | None]:
    """The columns of a class, from the metrics."""
    row: dict[str, float | None] = {}
    for model in ("base", "tuned"):
        found = metrics[model]
        by_size = found["mask"]["per_class_and_size"][name]
        overlap, threshold = found["overlap"], found["calibration"]["thresholds"][name]
        row |= {
            f"{model}_box_AP": found["box"]["per_class"][name],
            f"{model}_mask_AP": found["mask"]["per_class"][name],
            f"{model}_mask_AP_small": by_size["small"],
            f"{model}_mask_AP_medium": by_size["medium"],
            f"{model}_mask_AP_large": by_size["large"],
            f"{model}_dice": overlap["dice"]["per_class"][name],
            f"{model}_iou": overlap["iou"]["per_class"][name],
            f"{model}_boundary_iou": overlap["boundary_iou"]["per_class"][name],
            f"{model}_false_alarms": found["false_alarms"][name],
            f"{model}_threshold": threshold["threshold"],
            f"{model}_precision": threshold["precision"],
            f"{model}_recall": threshold["recall"],
        }
    interval = metrics["difference"]["average_precision"]["mask"]["per_class"][name]
    return row | {
        "difference": interval["difference"],
        "difference_low": interval["low"],
        "difference_high": interval["high"],
    }


def test_the_table_has_a_row_for_each_class(coco: Path) -> None:
    best = perfect(coco)
    alarm = replace(best[0], image_id=empty_image(coco), category_id=3)
    # 24 x 16 of 24 x 32 overlap: an IoU of 1/2 only passes 0.50 of ten.
    half = replace(best[0], bbox_xywh=shifted(best, 8)[0].bbox_xywh)
    metrics = evaluate(coco, [half, alarm], best)
    with (coco.parent / "evaluate" / "per_class.csv").open() as file:
        reader = csv.DictReader(file)
        rows = {row.pop("class"): row for row in reader}
    assert reader.fieldnames == ["class", *expected_row(metrics, "disc")]
    assert list(rows) == ["disc", "square", "cross"]
    for name, row in rows.items():
        expected = expected_row(metrics, name)
        assert row == {k: "" if value is None else str(value) for k, value in expected.items()}
    assert float(rows["disc"]["base_box_AP"]) < 0.1 < float(rows["disc"]["base_mask_AP"]) < 1
    assert float(rows["disc"]["tuned_mask_AP"]) == pytest.approx(1.0)
    assert float(rows["square"]["base_mask_AP"]) == 0.0
    assert rows["cross"]["tuned_mask_AP"] == ""  # the split has none
    assert float(rows["cross"]["base_false_alarms"]) == pytest.approx(1 / 4)


def test_box_only_objects_are_counted(coco: Path) -> None:
    best = perfect(coco)
    values = json.loads((coco / "test.json").read_text())
    values["annotations"][0]["segmentation"] = []
    (coco / "test.json").write_text(json.dumps(values))
    metrics = evaluate(coco, [], best)
    assert metrics["counts"] == {"images": 4, "objects": 3, "box_only_objects": 1}
    assert metrics["tuned"]["mask"]["ignored"] == 1
    assert metrics["tuned"]["mask"]["AP"] == pytest.approx(1.0)
    assert metrics["tuned"]["box"]["ignored"] == 0


def test_label_issues_are_searched_on_both_splits(coco: Path) -> None:
    found = [detected(label) for label in read_split(coco / "valid.json").objects]
    values = json.loads((coco / "valid.json").read_text())
    (removed,) = (a for a in values["annotations"] if a["image_id"] == 1)
    values["annotations"].remove(removed)
    (coco / "valid.json").write_text(json.dumps(values))
    metrics = evaluate_with_more(coco, base_valid=[], tuned_valid=found)
    (issue,) = metrics["label_issues"]
    assert (issue["split"], issue["reason"]) == ("valid", "missing label")
    assert (issue["image_id"], issue["bbox_xywh"]) == (1, removed["bbox"])
    assert issue["file_name"] == "valid/1.png"


def test_the_verdict_warns_of_a_test_split_that_is_not_held_out(coco: Path) -> None:
    held_out = evaluate_with_more(coco, base_valid=[], tuned_valid=[])
    assert held_out["held_out"]
    assert held_out["verdict"]["sentence"].endswith("; only 4 images")
    values = json.loads((coco / "test.json").read_text())
    (coco / "valid.json").write_text(json.dumps(values))
    found = [replace(d, category_id=2) for d in perfect(coco)]
    metrics = evaluate_with_more(coco, tuned=found, base_valid=[], tuned_valid=found)
    assert not metrics["held_out"]
    warning = "; not held out, so the scores are optimistically biased"
    assert warning in metrics["verdict"]["sentence"]
    assert {issue["split"] for issue in metrics["label_issues"]} <= {"test"}


@pytest.mark.parametrize("table", ["images", "categories"])
def test_a_split_without_images_or_classes_is_one_line(
    coco: Path, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    values = json.loads((coco / "test.json").read_text())
    (coco / "test.json").write_text(json.dumps({**values, table: [], "annotations": []}))
    with pytest.raises(SystemExit) as raised:
        evaluate(coco, [], [])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no images or no classes to evaluate on" in line


def test_forgetting_is_in_the_metrics(coco: Path) -> None:
    found = perfect(coco)
    base = prompted_text(["horse", "car"], [replace(found[0], category_id=1)])
    tuned = prompted_text(["horse", "car"], [replace(found[1], category_id=2)])
    metrics = evaluate_with_more(coco, base_ood=base, tuned_ood=tuned)
    assert metrics["forgetting"]["per_prompt"] == {
        "horse": {"before": 1, "after": 0, "retained": 0, "fraction": 0.0},
        "car": {"before": 0, "after": 1, "retained": 0, "fraction": None},
    }
    assert evaluate_with_more(coco)["forgetting"] is None


@pytest.mark.parametrize("given", ["base_valid", "tuned_ood"])
def test_one_of_a_pair_is_not_enough(
    coco: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    with pytest.raises(SystemExit) as raised:
        evaluate_with_more(coco, **{given: []})
    assert raised.value.code == 2
    assert "go together" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["[]", '{"categories": []}', '{"categories": [], "annotations": [{}]}']
)
def test_predictions_for_ood_prompts_are_checked_as_well(
    coco: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    good = prompted_text(["horse"], [])
    with pytest.raises(SystemExit) as raised:
        evaluate_with_more(coco, base_ood=good, tuned_ood=content)
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "tuned_ood.json: " in line
    assert "not COCO results" in line


def test_another_process_gives_the_same_numbers(
    coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, poor = perfect(coco), shifted(perfect(coco), 4)
    sequential = evaluate(coco, poor, good)
    monkeypatch.setattr("segtune.evaluate.MIN_PARALLEL_DETECTIONS", 0)
    assert evaluate(coco, poor, good) == sequential


def test_an_empty_test_split_decides_nothing(coco: Path) -> None:
    values = json.loads((coco / "test.json").read_text())
    (coco / "test.json").write_text(json.dumps({**values, "annotations": []}))
    metrics = evaluate(coco, [], [])
    assert metrics["verdict"] == {
        "outcome": "undecided",
        "sentence": "undecided: the test split has nothing to measure",
    }
    found = metrics["difference"]["average_precision"]["box"]["mean"]
    assert found == {"difference": None, "low": None, "high": None}


def test_a_split_without_masks_is_judged_by_boxes(tmp_path: Path) -> None:
    coco = write_converted(tmp_path, masks=False)
    metrics = evaluate(coco, [], perfect(coco))
    assert metrics["tuned"]["mask"] is metrics["base"]["mask"] is None
    assert metrics["tuned"]["box"]["AP"] == pytest.approx(1.0)
    assert "box AP 1.0000 fine-tuned vs. 0.0000" in metrics["verdict"]["sentence"]
    assert metrics["kind"] == "box"
    assert metrics["counts"]["box_only_objects"] == metrics["counts"]["objects"] == 3
    assert metrics["tuned"]["overlap"] is metrics["difference"]["overlap"] is None
    with (tmp_path / "evaluate" / "per_class.csv").open() as file:
        (disc, *_) = csv.DictReader(file)
    assert disc["tuned_mask_AP"] == disc["tuned_dice"] == ""
    assert float(disc["tuned_box_AP"]) == pytest.approx(1.0)
    assert "tuned_box_AP_small" in disc


NOT_RESULTS = "not COCO results"
RECORD = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize("model", ["base", "tuned"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read the COCO results"),
        ("null", NOT_RESULTS),
        ("{}", NOT_RESULTS),
        ('""', NOT_RESULTS),
        ("[{}]", NOT_RESULTS),
        ('{"a": 1}', NOT_RESULTS),
        (json.dumps([RECORD]), NOT_RESULTS),
        (json.dumps([{**RECORD, "image_id": 99}]), "1 of 1 detections have an image or category"),
        (
            json.dumps([{**RECORD, "category_id": 99}]),
            "1 of 1 detections have an image or category",
        ),
    ],
)
def test_unusable_predictions_are_one_line(
    coco: Path, capsys: pytest.CaptureFixture[str], content: str, message: str, model: str
) -> None:
    files: dict[str, Predictions] = {"base": [], "tuned": [], model: content}
    with pytest.raises(SystemExit) as raised:
        run(coco, {}, **files)
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"segtune evaluate: DatasetError: {coco.parent / model}.json: ")
    assert message in line
    assert not list((coco.parent / "evaluate").glob("*"))


def test_missing_predictions_are_one_line(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (coco.parent / "base.json").write_text("[]")
    paths = [f"--{name}={coco.parent / name}.json" for name in ("base", "tuned")]
    with pytest.raises(SystemExit) as raised:
        main([f"--coco={coco / 'test.json'}", *paths, f"--out={coco.parent / 'evaluate'}"])
    assert raised.value.code == 1
    assert "tuned.json" in capsys.readouterr().err
