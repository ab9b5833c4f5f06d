"""The default run has something to teach: fails when training, merge or scores get worse."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pretraining.train_tiny import measure
from segtune.dataset.coco import read_split
from segtune.evaluation.assessment import matched
from segtune.evaluation.error_types import classify_errors
from segtune.evaluation.false_alarms import false_alarms
from segtune.evaluation.label_issues import find_label_issues
from segtune.model.weights import load_base_model
from tests.corrupted import OF_EACH_KIND, corrupt

ROOT = Path(__file__).parent.parent
# Measured with three seeds, see benchmarks/adaptation.py. Another processor rounds differently.
ZERO_SHOT_AT_MOST = 0.15
TUNED_AT_LEAST = 0.40

pytestmark = pytest.mark.timeout(900)


def run(stage: str, *arguments: object) -> None:
    command = [sys.executable, "-m", f"segtune.{stage}", *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The scores of the demo with the shipped config, stage by stage."""
    folder = tmp_path_factory.mktemp("default")
    config = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    coco, test = folder / "coco", folder / "coco" / "test.json"
    run("convert", "--export", ROOT / "data/demo", "--out", coco)
    run("validate", "--coco", coco, "--out", folder)
    paths = ("--coco", coco, "--report", folder / "report.json", "--out", folder)
    run("train", *paths, "--settings", json.dumps(config["train"]))
    run("merge", "--adapter", folder / "adapter", "--out", folder)
    run("predict", "--coco", test, "--out", folder / "base.json")
    run("predict", "--coco", test, "--out", folder / "tuned.json", "--weights", folder / "sam3.pt")
    files = ("--base", folder / "base.json", "--tuned", folder / "tuned.json")
    run("evaluate", "--coco", test, *files, "--out", folder)
    values: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return {**values, "folder": folder, "settings": config["train"]}


def test_zero_shot_does_not_know_the_demo(metrics: dict[str, Any]) -> None:
    assert metrics["base"]["mask"]["AP"] <= ZERO_SHOT_AT_MOST


def test_fine_tuning_teaches_it(metrics: dict[str, Any]) -> None:
    assert metrics["tuned"]["mask"]["AP"] >= TUNED_AT_LEAST
    common = ("urchin", "limpet", "kelp")
    assert all(metrics["tuned"]["mask"]["per_class"][name] >= 0.16 for name in common)
    assert metrics["difference"]["mask"]["AP"]["low"] > 0.25
    assert metrics["verdict"].startswith("fine-tuned is better than zero-shot")


def test_it_does_not_fire_on_what_is_absent(metrics: dict[str, Any]) -> None:
    alarms = metrics["tuned"]["false_alarms"].values()
    assert sum(alarms) / len(alarms) <= 0.10
    assert sum(alarms) <= sum(metrics["base"]["false_alarms"].values())


def test_without_negatives_it_fires_on_everything(metrics: dict[str, Any], tmp_path: Path) -> None:
    settings = {**metrics["settings"], "max_negatives": 0, "epochs": 1}
    coco, test = metrics["folder"] / "coco", metrics["folder"] / "coco" / "test.json"
    paths = ("--coco", coco, "--report", metrics["folder"] / "report.json", "--out", tmp_path)
    run("train", *paths, "--settings", json.dumps(settings))
    run("merge", "--adapter", tmp_path / "adapter", "--out", tmp_path)
    weights = ("--weights", tmp_path / "sam3.pt")
    run("predict", "--coco", test, "--out", tmp_path / "tuned.json", *weights)
    found = json.loads((tmp_path / "tuned.json").read_text())
    alarms = false_alarms(read_split(test), found, 0.5)
    assert sum(alarms.values()) > 2 * sum(metrics["base"]["false_alarms"].values())


def test_spoilt_labels_are_suspected(metrics: dict[str, Any]) -> None:
    split = read_split(metrics["folder"] / "coco" / "test.json")
    results = json.loads((metrics["folder"] / "tuned.json").read_text())
    low = {category.id: 0.05 for category in split.categories}
    found = listed = 0
    for seed in range(5):
        corrupted = corrupt(split, seed)
        judged = classify_errors(corrupted.split, results, low, with_masks=True)
        matches = matched(corrupted.split, results, "mask").matches
        label_issues = find_label_issues(corrupted.split, judged, matches, 50)
        found, listed = found + corrupted.found(label_issues), listed + len(label_issues)
    print(f"{found} of {5 * 3 * OF_EACH_KIND} corrupted labels are among {listed} label_issues")
    assert found >= 0.5 * 5 * 3 * OF_EACH_KIND
    assert listed <= 300


def test_it_keeps_most_of_what_it_knew(metrics: dict[str, Any]) -> None:
    cpu, images = torch.device("cpu"), 80
    before = measure(load_base_model("tiny", "default"), cpu, images)["mask_AP"]
    after = measure(load_base_model("tiny", str(metrics["folder"] / "sam3.pt")), cpu, images)[
        "mask_AP"
    ]
    assert after >= 0.65 * before
