"""Evaluation: the verdict, the tables and the report, from predictions made by hand."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segtune.dataset.coco import read_split
from segtune.dataset.masks import segmentation_to_rle
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
    assert report.index("<h1>undecided between") < report.index("<table")


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
    measured = ("box_AP", "mask_AP", "mask_AP_small", "mask_AP_medium", "mask_AP_large")
    measured += ("dice", "iou", "boundary_iou", "false_alarms", "threshold", "precision", "recall")
    assert reader.fieldnames == [
        "class",
        *(f"{model}_{column}" for model in ("base", "tuned") for column in measured),
        *("difference", "difference_low", "difference_high"),
    ]
    assert list(rows) == ["disc", "square", "cross"]
    for name, row in rows.items():
        for model in ("base", "tuned"):
            found = metrics[model]
            at = found["calibration"]["thresholds"][name]
            assert {column: row[f"{model}_{column}"] for column in measured} == {
                column: "" if value is None else str(value)
                for column, value in {
                    "box_AP": found["box"]["per_class"][name],
                    "mask_AP": found["mask"]["per_class"][name],
                    "mask_AP_small": found["mask"]["per_class_and_size"][name]["small"],
                    "mask_AP_medium": found["mask"]["per_class_and_size"][name]["medium"],
                    "mask_AP_large": found["mask"]["per_class_and_size"][name]["large"],
                    "dice": found["overlap"]["dice"]["per_class"][name],
                    "iou": found["overlap"]["iou"]["per_class"][name],
                    "boundary_iou": found["overlap"]["boundary_iou"]["per_class"][name],
                    "false_alarms": found["false_alarms"][name],
                    "threshold": at["threshold"],
                    "precision": at["precision"],
                    "recall": at["recall"],
                }.items()
            }
        difference = metrics["difference"]["mask"]["per_class"][name]
        assert [row[f"difference{end}"] for end in ("", "_low", "_high")] == [
            "" if value is None else str(value) for value in difference.values()
        ]
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
    found = evaluate(coco, [alarm], [alarm], confidence_threshold=0.4)
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
    assert "4 held-out images with 3 objects" in report
    assert "1 objects have a box and no mask" in report


def values_of(metrics: Any, *left_out: str) -> Iterator[float]:
    """All numbers in a tree."""
    if isinstance(metrics, dict):
        for name, value in metrics.items():
            if name not in left_out:
                yield from values_of(value, *left_out)
    elif isinstance(metrics, int | float):
        yield metrics


def test_perfect_predictions_are_1_everywhere_and_none_are_0(coco: Path) -> None:
    metrics = evaluate(coco, [], perfect(coco))
    tuned, base = metrics["tuned"], metrics["base"]
    for part in ("box", "mask"):
        ones = list(values_of(tuned[part], "ignored"))
        assert ones == pytest.approx([1.0] * len(ones))
        assert set(values_of(base[part], "ignored")) == {0.0}
        for name, value in tuned["cgF1"][part].items():
            assert value == pytest.approx(1.0, abs=1e-3)
            assert base["cgF1"][part][name] == 0.0
    assert set(values_of(tuned["overlap"])) == {1.0}
    assert set(values_of(base["overlap"])) == {0.0}
    assert set(tuned["false_alarms"].values()) == {0.0}
    found = [
        row for row in tuned["calibration"]["thresholds"].values() if row["recall"] is not None
    ]
    assert [(row["precision"], row["recall"], row["f1"]) for row in found] == [(1.0, 1.0, 1.0)] * 2
    kinds = [{kind for kind, n in row.items() if n} for row in tuned["mistakes"].values()]
    assert kinds == [{"correct"}, {"correct"}, set()]
    kinds = [{kind for kind, n in row.items() if n} for row in base["mistakes"].values()]
    assert kinds == [{"missed"}, {"missed"}, set()]


def turned(difference: Any) -> Any:
    """A tree of differences as it is with the models swapped."""
    if not isinstance(difference, dict):
        return difference
    if set(difference) == {"difference", "low", "high"}:
        values = [difference[name] for name in ("difference", "high", "low")]
        back = [None if value is None else pytest.approx(-value, abs=1e-12) for value in values]
        return dict(zip(("difference", "low", "high"), back, strict=True))
    return {name: turned(value) for name, value in difference.items()}


def test_swapping_the_models_turns_every_difference(coco: Path) -> None:
    good, poor = perfect(coco), shifted(perfect(coco), 4)
    poor.append({**poor[0], "category_id": 3})
    there = evaluate(coco, poor, good)["difference"]
    assert evaluate(coco, good, poor)["difference"] == turned(there)
    assert there["mask"]["AP"]["difference"] > 0
    assert there["false_alarms"]["per_class"]["cross"]["difference"] < 0
    assert there["false_alarms"]["mean"]["difference"] < 0
    tuned_shares, base_shares = (
        evaluate(coco, poor, good)[model]["overlap"]["iou"]["mean"] for model in ("tuned", "base")
    )
    assert there["overlap"]["iou"]["mean"]["difference"] == pytest.approx(
        tuned_shares - base_shares
    )


def answers(coco: Path, prompts: list[str], results: list[dict[str, Any]]) -> str:
    categories = [{"id": n, "name": prompt} for n, prompt in enumerate(prompts, start=1)]
    return json.dumps({"images": [], "categories": categories, "annotations": results})


def evaluate_with_more(coco: Path, **files: Any) -> dict[str, Any]:
    """Also the valid split and other words."""
    folder = coco.parent
    command = [f"--coco={coco / 'test.json'}", f"--out={folder / 'evaluate'}"]
    if any(name.endswith("valid") for name in files):
        command.append(f"--valid={coco / 'valid.json'}")
    for name, content in {"base": [], "tuned": perfect(coco), **files}.items():
        path = folder / f"{name}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        command.append(f"--{name.replace('_', '-')}={path}")
    main(command)
    metrics: dict[str, Any] = json.loads((folder / "evaluate" / "metrics.json").read_text())
    return metrics


def test_thresholds_are_chosen_on_valid_and_measured_on_test(coco: Path) -> None:
    split = read_split(coco / "valid.json")
    disc = next(a for found in split.annotations.values() for a in found if a.category_id == 1)
    there: dict[str, Any] = {
        "image_id": disc.image_id,
        "category_id": 1,
        "bbox": list(disc.bbox_xywh),
    }
    there["segmentation"] = segmentation_to_rle(disc.segmentation or [], SIDE, SIDE)
    stray = {**shifted([there], 25)[0], "score": 0.4}
    on_valid = [{**there, "score": 0.6}, stray]
    on_test = [{**r, "score": 0.5} for r in perfect(coco)]
    metrics = evaluate_with_more(coco, tuned=on_test, base_valid=[], tuned_valid=on_valid)
    found = metrics["tuned"]["calibration"]
    chosen = {name: row["chosen_on_valid"] for name, row in found["thresholds"].items()}
    assert chosen == {"disc": True, "square": False, "cross": False}
    assert found["thresholds"]["disc"]["threshold"] == 0.6
    assert found["thresholds"]["disc"]["recall"] == 0.0  # all of them score 0.5 on test
    assert found["thresholds"]["square"]["threshold"] == 0.5  # nothing to choose from
    assert found["thresholds"]["square"]["recall"] == 1.0
    without = evaluate_with_more(coco, tuned=on_test)["tuned"]["calibration"]
    assert not any(row["chosen_on_valid"] for row in without["thresholds"].values())
    assert without["thresholds"]["disc"]["recall"] == 1.0


def test_suspicious_labels_are_looked_for_on_both_splits(coco: Path) -> None:
    values = json.loads((coco / "valid.json").read_text())
    (removed,) = (a for a in values["annotations"] if a["image_id"] == 1)
    results = [
        {
            **{key: a[key] for key in ("image_id", "category_id", "bbox")},
            "segmentation": segmentation_to_rle(a["segmentation"], SIDE, SIDE),
            "score": 0.9,
        }
        for a in values["annotations"]
    ]
    values["annotations"].remove(removed)
    (coco / "valid.json").write_text(json.dumps(values))
    metrics = evaluate_with_more(coco, base_valid=[], tuned_valid=results)
    (label_issue,) = metrics["label_issues"]
    assert (label_issue["split"], label_issue["reason"]) == ("valid", "unlabelled")
    assert (label_issue["image_id"], label_issue["bbox_xywh"]) == (1, removed["bbox"])
    report = (coco.parent / "evaluate" / "report.html").read_text()
    assert "unlabelled in valid/1.png" in report


def test_valid_that_stands_in_for_test_is_said_first(coco: Path) -> None:
    held_out = evaluate_with_more(coco, base_valid=[], tuned_valid=[])
    assert held_out["held_out"]
    assert held_out["verdict"].endswith("; only 4 images")
    values = json.loads((coco / "test.json").read_text())
    (coco / "valid.json").write_text(json.dumps(values))
    found = [{**r, "category_id": 2} for r in perfect(coco)]
    metrics = evaluate_with_more(coco, tuned=found, base_valid=[], tuned_valid=found)
    assert not metrics["held_out"]
    assert "; not held out, so the scores are too good" in metrics["verdict"]
    assert {s["split"] for s in metrics["label_issues"]} <= {"test"}
    report = (coco.parent / "evaluate" / "report.html").read_text()
    assert "the scores are too good</strong>" in report
    assert "which neither training" not in report


@pytest.mark.parametrize("table", ["images", "categories"])
def test_nothing_to_evaluate_on_is_one_line(
    coco: Path, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    values = json.loads((coco / "test.json").read_text())
    (coco / "test.json").write_text(json.dumps({**values, table: [], "annotations": []}))
    with pytest.raises(SystemExit) as raised:
        evaluate(coco, [], [])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no images or no classes to evaluate on" in line


def test_a_class_that_is_always_there_has_no_false_alarms(coco: Path) -> None:
    values = json.loads((coco / "test.json").read_text())
    values["images"] = [i for i in values["images"] if i["id"] % 3 == 1]  # a disc on each
    values["annotations"] = [a for a in values["annotations"] if a["image_id"] % 3 == 1]
    (coco / "test.json").write_text(json.dumps(values))
    metrics = evaluate(coco, [], [{**perfect(coco)[0], "category_id": 2}])
    assert metrics["tuned"]["false_alarms"] == {"disc": None, "square": 0.5, "cross": 0.0}
    differences = metrics["difference"]["false_alarms"]
    assert differences["mean"]["difference"] == 0.25
    assert differences["per_class"]["disc"]["difference"] is None


def test_what_was_forgotten_is_in_the_metrics(coco: Path) -> None:
    found = perfect(coco)
    base = answers(coco, ["horse", "car"], [{**found[0], "category_id": 1}])
    tuned = answers(coco, ["horse", "car"], [{**found[1], "category_id": 2}])
    metrics = evaluate_with_more(coco, base_outside=base, tuned_outside=tuned)
    assert metrics["forgetting"]["per_prompt"] == {
        "horse": {"before": 1, "after": 0, "kept": 0, "kept_share": 0.0},
        "car": {"before": 0, "after": 1, "kept": 0, "kept_share": None},
    }
    assert evaluate_with_more(coco)["forgetting"] is None


@pytest.mark.parametrize("given", ["base_valid", "tuned_outside"])
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
def test_other_answers_are_checked_as_well(
    coco: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    good = answers(coco, ["horse"], [])
    with pytest.raises(SystemExit) as raised:
        evaluate_with_more(coco, base_outside=good, tuned_outside=content)
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "tuned_outside.json: not COCO results" in line


def test_another_process_gives_the_same_numbers(
    coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, poor = perfect(coco), shifted(perfect(coco), 4)
    alone = evaluate(coco, poor, good)
    monkeypatch.setattr("segtune.evaluate.MIN_PARALLEL_DETECTIONS", 0)
    assert evaluate(coco, poor, good) == alone


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
    assert metrics["tuned"]["overlap"] is metrics["difference"]["overlap"] is None
    report = (tmp_path / "evaluate" / "report.html").read_text()
    assert "box AP" in report
    assert "mask AP" not in report


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
        ([{**ANSWER, "image_id": 99}], "1 detections on images or classes"),
        ([{**ANSWER, "category_id": 99}], "1 detections on images or classes"),
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
        [{**ANSWER, "segmentation": {**MASK, "counts": "zzz"}}],
        [{**ANSWER, "segmentation": {**MASK, "counts": [1, 2]}}],
        [{**ANSWER, "segmentation": {**MASK, "counts": MASK["counts"][:-1]}}],
        [{**ANSWER, "segmentation": {"size": [SIDE, SIDE]}}],
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
        "bad_runs",
        "list_of_runs",
        "short_runs",
        "no_runs",
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
