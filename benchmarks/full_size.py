"""The full architecture through the stages: seconds and peak memory of each.

`python -m benchmarks.full_size` writes a small export and runs convert, validate, train (one
optimizer step on two images, from random weights), merge and predict, each as its own
command. It checks that stock SAM 3 loads the merged file completely. Needs about 24 GB of
memory and 8 GB of disk.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

SETTINGS = {
    "epochs": 1,
    "batch_size": 2,
    "micro_batch_size": 1,
    "max_negatives": 1,
    "warmup_steps": 0,
}
COUNTS = {"train": 2, "valid": 1, "test": 1}
SIDE = 640  # pixels of the images; the model sees 1008


@dataclass(frozen=True)
class Measured:
    """Time and memory of one command."""

    stage: str
    seconds: float
    peak_gb: float


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="for all files; default: a temporary folder")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        write_export(folder / "export")
        table = Table("stage", "seconds", "peak GB", title="SAM 3 at full size")
        for stage, command in commands(folder).items():
            measured = run(stage, command)
            table.add_row(stage, f"{measured.seconds:.0f}", f"{measured.peak_gb:.1f}")
        Console().print(table)
        print(json.loads((folder / "out/parity.json").read_text())["adapted_vs_merged"])


def commands(folder: Path) -> dict[str, list[str]]:
    """The stages' command lines, in order."""
    coco, out = str(folder / "coco"), str(folder / "out")
    model = ["--model", "full", "--weights", "random:0"]
    merged = ["--model", "full", "--weights", f"{out}/sam3.pt"]
    test, settings = f"{coco}/test.json", json.dumps(SETTINGS)
    return {
        "convert": ["segtune.convert", "--export", str(folder / "export"), "--out", coco],
        "validate": ["segtune.validate", "--coco", coco, "--out", out],
        "train": [
            *("segtune.train", "--coco", coco, "--report", f"{out}/report.json"),
            *("--out", f"{out}/train", *model, "--settings", settings),
        ],
        "merge": ["segtune.merge", "--adapter", f"{out}/train/adapter", "--out", out, *model],
        "stock load": ["benchmarks.full_size_stock_load", f"{out}/sam3.pt"],
        "predict": ["segtune.predict", "--coco", test, "--out", f"{out}/tuned.json", *merged],
    }


def run(stage: str, command: list[str]) -> Measured:
    """Run a command as its own process and measure it."""
    print(f"{stage} …", flush=True)
    began = time.perf_counter()
    arguments = [sys.executable, "-m", *command]
    process = os.posix_spawn(sys.executable, arguments, dict(os.environ))
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{stage} failed")
    # Linux reports the peak in KiB.
    return Measured(stage, time.perf_counter() - began, usage.ru_maxrss * 1024 / 1e9)


def write_export(folder: Path) -> None:
    """Images of noise with one rectangle each, in Roboflow's COCO layout."""
    for seed, (split, count) in enumerate(COUNTS.items()):
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            pixels = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{number}.png")
            x, y, w, h = 100, 150, 200, 120
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            images.append(
                {"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE}
            )
            annotations.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x, y, w, h],
                    "segmentation": [polygon],
                }
            )
        names = ("plate", "bolt")
        values = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
        }
        (folder / split / "_annotations.coco.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main()
