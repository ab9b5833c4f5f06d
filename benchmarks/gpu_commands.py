"""The commands of the workflow on this machine's device: tiny and full model, the demo's images."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import ROOT
from segtune.core.config import parse_config

SHORT = {"epochs": 2, "validate_every": 1, "ema_decay": 0.9}
LONG = {"epochs": 40, "validate_every": 40, "checkpoint_every": 5}
PART = 10  # images of each split, with the full model
LABELS = "_annotations.coco.json"
WORKERS = "4"
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=1", "-m")
SECONDS = 240  # after which a command is considered hung


def stages() -> Iterator[tuple[str, str]]:
    """(command, seconds) from the demo to its evaluation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield from _timed(demo_commands(folder, SHORT))
        metrics = folder / "metrics.json"
        if metrics.exists():
            yield "mask AP on test", _scores(json.loads(metrics.read_text()))


def full_run() -> Iterator[tuple[str, str]]:
    """(command, seconds) of the full model with random weights, on a few of the demo's images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_part_of_demo(folder / "export")
        yield from _timed(full_commands(folder))


def _timed(commands: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    for title, command in commands.items():
        began = time.perf_counter()
        done = run_command(command)
        seconds = f"{time.perf_counter() - began:.0f} s"
        yield title, seconds if done.returncode == 0 else _failure(done)


def write_part_of_demo(folder: Path) -> None:
    """An export with the first `PART` images of each split of the demo."""
    for split in ("train", "valid", "test"):
        source = ROOT / "data/demo" / split
        labels = json.loads((source / LABELS).read_text())
        labels["images"] = labels["images"][:PART]
        chosen = {image["id"] for image in labels["images"]}
        labels["annotations"] = [a for a in labels["annotations"] if a["image_id"] in chosen]
        (folder / split).mkdir(parents=True)
        (folder / split / LABELS).write_text(json.dumps(labels))
        for image in labels["images"]:
            shutil.copy(source / image["file_name"], folder / split)


def full_commands(folder: Path) -> dict[str, list[str]]:
    """With LoRA from block 24 on and cached features; nothing is evaluated."""
    coco, out, valid = f"{folder}/coco", str(folder), f"{folder}/coco/valid.json"
    config = parse_config(
        {
            "export": "any",
            "model": "full",
            "train": {
                "epochs": 1,
                "batch_size": 4,
                "cache_features": True,
                "scale_views": 2,
                "lora": {"vision": {"blocks": "24-31"}},
            },
        }
    )
    train = json.dumps(config.train.model_dump(mode="json"))
    full = ["--model", "full", "--weights", "random:0"]
    common = ["--coco", coco, *full, "--settings", train, "--workers", WORKERS]
    adapter = ["--adapter", f"{out}/adapter"]
    return {
        "convert": ["segtune.convert", "--export", f"{out}/export", "--out", coco],
        "validate": ["segtune.validate", "--coco", coco, "--out", out],
        "features": ["segtune.features", *common, "--out", f"{out}/features"],
        "train": [
            *("segtune.train", *common, "--report", f"{out}/report.json", "--out", out),
            *("--features", f"{out}/features"),
        ],
        "strength": [
            *("segtune.strength", "--coco", valid, *full, *adapter, "--out", out),
            *("--retain-images", f"{out}/export/test", "--prompt", "circle", "square", "ring"),
        ],
        "merge": [
            *("segtune.merge", *full, *adapter, "--out", out, "--coco", valid),
            *("--strengths", f"{out}/strength.json"),
        ],
        "predict": ["segtune.predict", "--coco", valid, *full, "--out", f"{out}/base.json"],
    }


def stop_and_resume() -> Iterator[tuple[str, str]]:
    """SIGTERM to a training run with data workers, with and without torchrun; then resume it."""
    for title, launcher in {"one process": (), "torchrun": TORCHRUN}.items():
        with tempfile.TemporaryDirectory() as name:
            commands = demo_commands(Path(name), LONG)
            for command in (commands["convert"], commands["validate"]):
                run_command(command).check_returncode()
            train = [*launcher, *commands["train"]]
            status, seconds, output = _terminated(train)
            saved = re.findall(r"stopped after step \d+", output)
            figure = f"exit {status} after {seconds:.1f} s, {saved or output[-300:]!r}"
            yield f"{title}, SIGTERM", figure
            status, _, output = _terminated(train)
            resumed = re.findall(r"resuming after step \d+", output)
            yield f"{title}, the same command again", f"{resumed or output[-300:]!r}"


def demo_commands(folder: Path, settings: dict[str, Any]) -> dict[str, list[str]]:
    coco, out, test = str(folder / "coco"), str(folder), str(folder / "coco/test.json")
    predict = ["segtune.predict", "--coco", test, "--model", "tiny"]
    return {
        "convert": ["segtune.convert", "--export", str(ROOT / "data/demo"), "--out", coco],
        "validate": ["segtune.validate", "--coco", coco, "--out", out],
        "train": [
            *("segtune.train", "--coco", coco, "--report", f"{out}/report.json", "--out", out),
            *("--workers", WORKERS, "--settings", json.dumps({**_shipped(), **settings})),
        ],
        "strength": [
            *("segtune.strength", "--coco", f"{coco}/valid.json", "--model", "tiny"),
            *("--adapter", f"{out}/adapter", "--out", out, "--prompt", "circle", "square"),
        ],
        "merge": [
            *("segtune.merge", "--adapter", f"{out}/adapter", "--out", out, "--model", "tiny"),
            *("--strengths", f"{out}/strength.json"),
        ],
        "predict, base": [*predict, "--out", f"{out}/base.json"],
        "predict, tuned": [
            *(*predict, "--out", f"{out}/tuned.json", "--weights", f"{out}/sam3.pt"),
        ],
        "evaluate": [
            *("segtune.evaluate", "--coco", test, "--base", f"{out}/base.json"),
            *("--tuned", f"{out}/tuned.json", "--out", out),
        ],
    }


def _shipped() -> dict[str, Any]:
    return parse_config({"export": "data/demo"}).train.model_dump(mode="json")


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _arguments(command: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", *command]


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _arguments(command), env=_environment(), capture_output=True, text=True, timeout=SECONDS
    )


def _failure(done: subprocess.CompletedProcess[str]) -> str:
    return f"FAILED ({done.returncode}): {(done.stdout + done.stderr)[-300:]!r}"


def _terminated(command: Sequence[str]) -> tuple[int, float, str]:
    """Start training, send SIGTERM once it has taken steps; status, seconds to stop, output."""
    process = subprocess.Popen(
        _arguments(command),
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if re.search(r"epoch \d+/\d+ step", line):
            break
    time.sleep(1)
    began = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=SECONDS)
    return process.returncode, time.perf_counter() - began, "".join(lines) + rest


def _scores(metrics: dict[str, Any]) -> str:
    base, tuned = (metrics[model]["mask"]["AP"] for model in ("base", "tuned"))
    return f"{base:.3f} zero-shot, {tuned:.3f} fine-tuned"
