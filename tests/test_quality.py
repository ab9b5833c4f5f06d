"""The default run has something to teach: fails when training, merge or scores get worse."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
# Measured: 0.02 and, with seeds 0 and 1, 0.35 and 0.31. Another processor rounds differently.
ZERO_SHOT_AT_MOST = 0.15
TUNED_AT_LEAST = 0.25

pytestmark = pytest.mark.timeout(900)


def run(stage: str, *arguments: object) -> None:
    command = [sys.executable, "-m", f"segtune.{stage}", *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"})


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
    return values


def test_zero_shot_does_not_know_the_demo(metrics: dict[str, Any]) -> None:
    assert metrics["base"]["mask"]["AP"] <= ZERO_SHOT_AT_MOST


def test_fine_tuning_teaches_it(metrics: dict[str, Any]) -> None:
    assert metrics["tuned"]["mask"]["AP"] >= TUNED_AT_LEAST
    common = ("urchin", "limpet", "kelp")
    assert all(metrics["tuned"]["mask"]["per_class"][name] >= 0.15 for name in common)


def test_it_does_not_fire_on_what_is_absent(metrics: dict[str, Any]) -> None:
    alarms = metrics["tuned"]["false_alarms"].values()
    assert sum(alarms) / len(alarms) <= 0.15
