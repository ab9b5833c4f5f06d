"""Training in a test: the command with small settings, as a process or refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segtune.core.config import TrainSettings, parse_train
from segtune.train import main
from segtune.training.setup import Inputs
from tests.forked import Forked

Process = subprocess.Popen[str] | Forked

SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "micro_batch_size": 2,
    "checkpoint_every": 1,
    "validate_every": 1,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "lora": {
        "vision": {"rank": 2, "dropout": 0.1},
        "detr_decoder": {"rank": 2},
        "segmentation": {"rank": 2},
    },
}


def train_settings(**changes: Any) -> TrainSettings:
    """The settings, with changes, as the command understands them."""
    return parse_train("tiny", json.dumps({**SETTINGS, **changes}))


def run_inputs(coco: Path, out: Path) -> Inputs:
    """Of a run of the tiny model, for `prepare_run`."""
    return Inputs(
        coco=coco,
        out=out,
        features=out / "features",
        model="tiny",
        weights="default",
        image_size=None,
        workers=0,
    )


def arguments(coco: Path, out: Path, **changes: Any) -> list[str]:
    """Of the command, with changed settings."""
    settings = json.dumps({**SETTINGS, **changes})
    report = str(coco.parent / "report.json")
    paths = ["--coco", str(coco), "--report", report, "--out", str(out)]
    return [*paths, "--settings", settings]


def start(coco: Path, out: Path, processes: int = 1, **changes: Any) -> Process:
    """Start the command, in one or more processes of its own."""
    if processes == 1:
        return Forked(main, arguments(coco, out, **changes))
    launch = ["-m", "segtune.launch", "--devices", str(processes), "--torchrun", "--"]
    command = [*launch, "-m", "segtune.train", *arguments(coco, out, **changes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    pipes["start_new_session"] = True  # so that it can be killed as a group
    return subprocess.Popen([sys.executable, *command], env=environment, **pipes)  # type: ignore[call-overload]


def finish(process: Process) -> str:
    """Wait until a run has succeeded; return its output."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def history(out: Path) -> list[dict[str, Any]]:
    """The records of steps and validations."""
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def refused(coco: Path, out: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    """What the command writes to stderr where it must fail, leaving no adapter."""
    with pytest.raises(SystemExit) as raised:
        main(arguments(coco, out, **changes))
    assert raised.value.code == 1
    assert not (out / "adapter").exists()
    return capsys.readouterr().err
