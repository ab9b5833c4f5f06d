"""How a finished run is used on new images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtune.core.errors import DatasetError
from segtune.dataset.trained_run import (
    TrainedClass,
    TrainedModel,
    read_class_scores,
    read_classes_beside,
    read_run,
)
from tests.trained_runs import run_files, write_run


def files() -> dict[str, Any]:
    return run_files({"rbc": "red cell"}, [0.3], image_size=120)


def test_a_run_has_model_prompts_and_thresholds(tmp_path: Path) -> None:
    write_run(tmp_path, files())
    model, classes = read_run(tmp_path)
    assert model == TrainedModel(str(tmp_path / "merge/sam3.pt"), "tiny", 120)
    assert classes == [TrainedClass("rbc", "red cell", 0.3)]


def thresholds_of(files: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = files["evaluate/metrics.json"]["tuned"]["calibration"]["thresholds"]
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop("evaluate/metrics.json"), "evaluate/metrics.json"),
        (lambda files: files.pop("train/adapter/recipe.json"), "train/adapter/recipe.json"),
        (lambda files: files.pop("coco/test.json"), "coco/test.json"),
        (lambda files: thresholds_of(files).clear(), "thresholds for other classes"),
        (lambda files: thresholds_of(files)["rbc"].update(threshold=2), "less than or equal to 1"),
        (lambda files: files["train/adapter/recipe.json"].pop("model"), "Field required"),
    ],
)
def test_an_unfinished_or_damaged_run_is_an_error(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    damaged = files()
    change(damaged)
    write_run(tmp_path, damaged)
    with pytest.raises(DatasetError, match="workflow that has finished") as raised:
        read_run(tmp_path)
    assert message in str(raised.value)


def test_an_exported_model_has_its_classes_beside_it(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps({"rbc": "red cell"}))
    with pytest.raises(DatasetError, match="Give --prompt, --run"):
        read_classes_beside(tmp_path / "sam3.safetensors")
    (tmp_path / "thresholds.json").write_text(json.dumps({"rbc": 0.25}))
    found = read_classes_beside(tmp_path / "sam3.safetensors")
    assert found == [TrainedClass("rbc", "red cell", 0.25)]


def test_scores_are_those_of_what_was_compared(tmp_path: Path) -> None:
    values = run_files({"rbc": "red cell", "wbc": "x"}, [0.3, 0.3], mask_ap=[0.25, None])
    write_run(tmp_path, values)
    assert read_class_scores(tmp_path) == {"rbc": 0.25, "wbc": None}
    values["evaluate/metrics.json"]["kind"] = "box"
    values["evaluate/metrics.json"]["tuned"]["mask"] = None
    write_run(tmp_path, values)
    assert read_class_scores(tmp_path) == {"rbc": 0.5, "wbc": 0.5}
