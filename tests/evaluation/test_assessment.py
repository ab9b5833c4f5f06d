"""All metrics of two models and their differences, from predictions made by hand."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segtune.dataset.coco import read_split
from tests.converted import write_converted
from tests.evaluate_runs import empty_image, evaluate, evaluate_with_more
from tests.predictions import detected, perfect, shifted


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_converted(tmp_path)


def test_the_confidence_threshold_is_a_setting(coco: Path) -> None:
    alarm = replace(perfect(coco)[0], image_id=empty_image(coco), category_id=3, score=0.4)
    assert evaluate(coco, [], [alarm])["tuned"]["false_alarms"]["cross"] == 0.0
    found = evaluate(coco, [alarm], [alarm], confidence_threshold=0.4)
    assert found["base"]["false_alarms"]["cross"] == pytest.approx(1 / 4)
    assert found["tuned"]["false_alarms"]["cross"] == pytest.approx(1 / 4)


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
        for name, value in tuned["cgf1"][part].items():
            assert value == pytest.approx(1.0, abs=1e-3)
            assert base["cgf1"][part][name] == 0.0
    assert set(values_of(tuned["overlap"])) == {1.0}
    assert set(values_of(base["overlap"])) == {0.0}
    assert set(tuned["false_alarms"].values()) == {0.0}
    found = [
        row for row in tuned["calibration"]["thresholds"].values() if row["recall"] is not None
    ]
    assert [(row["precision"], row["recall"], row["f1"]) for row in found] == [(1.0, 1.0, 1.0)] * 2
    kinds = [{kind for kind, n in row.items() if n} for row in tuned["errors"].values()]
    assert kinds == [{"correct"}, {"correct"}, set()]
    kinds = [{kind for kind, n in row.items() if n} for row in base["errors"].values()]
    assert kinds == [{"missed"}, {"missed"}, set()]


def negated(difference: Any) -> Any:
    """A tree of differences with the models swapped."""
    if not isinstance(difference, dict):
        return difference
    if set(difference) == {"difference", "low", "high"}:
        values = [difference[name] for name in ("difference", "high", "low")]
        back = [None if value is None else pytest.approx(-value, abs=1e-12) for value in values]
        return dict(zip(("difference", "low", "high"), back, strict=True))
    return {name: negated(value) for name, value in difference.items()}


def test_swapping_the_models_negates_every_difference(coco: Path) -> None:
    good, poor = perfect(coco), shifted(perfect(coco), 4)
    poor.append(replace(poor[0], category_id=3))
    metrics = evaluate(coco, poor, good)
    found = metrics["difference"]
    assert evaluate(coco, good, poor)["difference"] == negated(found)
    assert found["average_precision"]["mask"]["mean"]["difference"] > 0
    assert found["false_alarms"]["per_class"]["cross"]["difference"] < 0
    assert found["false_alarms"]["mean"]["difference"] < 0
    tuned_iou, base_iou = (metrics[m]["overlap"]["iou"]["mean"] for m in ("tuned", "base"))
    assert found["overlap"]["iou"]["mean"]["difference"] == pytest.approx(tuned_iou - base_iou)


def test_thresholds_are_chosen_on_valid_and_measured_on_test(coco: Path) -> None:
    split = read_split(coco / "valid.json")
    disc = detected(next(a for a in split.objects if a.category_id == 1), score=0.6)
    stray = replace(shifted([disc], 25)[0], score=0.4)
    on_test = perfect(coco, score=0.5)
    metrics = evaluate_with_more(coco, tuned=on_test, base_valid=[], tuned_valid=[disc, stray])
    found = metrics["tuned"]["calibration"]
    chosen = {name: row["chosen_on_valid"] for name, row in found["thresholds"].items()}
    assert chosen == {"disc": True, "square": False, "cross": False}
    assert found["thresholds"]["disc"]["threshold"] == 0.6
    assert found["thresholds"]["disc"]["recall"] == 0.0  # all of them score 0.5 on test
    assert found["thresholds"]["square"]["threshold"] == 0.5  # the default
    assert found["thresholds"]["square"]["recall"] == 1.0
    without = evaluate_with_more(coco, tuned=on_test)["tuned"]["calibration"]
    assert not any(row["chosen_on_valid"] for row in without["thresholds"].values())
    assert without["thresholds"]["disc"]["recall"] == 1.0


def test_a_class_in_every_image_has_no_false_alarms(coco: Path) -> None:
    values = json.loads((coco / "test.json").read_text())
    values["images"] = [i for i in values["images"] if i["id"] % 3 == 1]  # a disc on each
    values["annotations"] = [a for a in values["annotations"] if a["image_id"] % 3 == 1]
    (coco / "test.json").write_text(json.dumps(values))
    metrics = evaluate(coco, [], [replace(perfect(coco)[0], category_id=2)])
    assert metrics["tuned"]["false_alarms"] == {"disc": None, "square": 0.5, "cross": 0.0}
    differences = metrics["difference"]["false_alarms"]
    assert differences["mean"]["difference"] == 0.25
    assert differences["per_class"]["disc"]["difference"] is None


def test_the_number_of_resamples_is_a_setting(coco: Path) -> None:
    best = perfect(coco)
    few, many = (
        evaluate(coco, shifted(best, 2), best[1:], **settings)["difference"]
        for settings in ({"resamples": 3}, {})
    )
    one, other = (found["average_precision"]["mask"]["mean"] for found in (few, many))
    assert one["difference"] == other["difference"]
    assert (one["low"], one["high"]) != (other["low"], other["high"])
