"""Labeling 10,000 and 100,000 images in shards: seconds and peak memory of each kind of job.

`python -m benchmarks.labeling` writes images of 32 x 32 into one folder, lists them as the workflow
does, labels the first list, and gathers the labels of as many shards as there are lists, which are
copies of the first. Everything but the model is segtune's: ten fixed detections in each image stand
in for its output.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image as PilImage

SIDE = 32  # pixels
SIZES = (10_000, 100_000)  # images
CLASSES = ("thing", "other")
CENTERS = [(x, y) for x in (6, 16, 26) for y in (6, 16, 26)][:5]  # of detections of each class
RADIUS = 4
INTERVAL = 0.02  # seconds between two looks at the memory


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each number of images and each job; `--job` is what a shard runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=SIZES)
    parser.add_argument("--job", nargs=argparse.REMAINDER, help="arguments of segtune.predict")
    arguments = parser.parse_args(argv)
    if arguments.job:
        predict_without_model(arguments.job)
        return
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as name:
            for job, seconds, peak in measured_jobs(Path(name), count):
                print(f"{count} images, {job}: {seconds:.1f} s, {peak:.0f} MB", flush=True)


def measured_jobs(folder: Path, count: int) -> list[tuple[str, float, float]]:
    """Name, seconds and peak MB of the jobs for this many images."""
    write_images(folder / "photos", count)
    write_run(folder / "results")
    label = folder / "results" / "label"
    list_command = ["segtune.label_list", "--images", folder / "photos", "--out", label]
    listing = measure(list_command)
    again = measure(list_command)
    lists = sorted((label / "lists").iterdir())
    first = label / "shards" / "0000.json"
    shard = measure(
        [
            *("benchmarks.labeling", "--job", "--run", folder / "results"),
            *("--images", folder / "photos", "--list", lists[0], "--out", first),
        ]
    )
    for path in lists[1:]:
        os.link(first, first.with_stem(path.stem))
    gather = measure(
        [
            *("segtune.label_gather", "--lists", label / "lists.json"),
            *("--shards", label / "shards", "--out", label / "labels.json"),
        ]
    )
    size = (label / "labels.json").stat().st_size / 1e6
    return [
        ("listing", *listing),
        ("listing again", *again),
        (f"one shard of {len(lists)}", *shard),
        (f"gathering {size:.0f} MB", *gather),
    ]


def write_images(folder: Path, count: int) -> None:
    """Images that differ only in their names."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PilImage.fromarray(pixels).save(stream, "PNG")
    for number in range(count):
        (folder / f"photograph_{number * 7919 % count:07}.png").write_bytes(stream.getvalue())


def write_run(results: Path) -> None:
    """As much of a finished run as `segtune.predict` reads; the weights are not loaded."""
    thresholds = {name: {"threshold": 0.5} for name in CLASSES}
    files = {
        "train/adapter/recipe.json": {"model": "tiny", "image_size": None},
        "evaluate/metrics.json": {"tuned": {"calibration": {"thresholds": thresholds}}},
        "coco/test.json": {"categories": [{"name": name, "prompt": name} for name in CLASSES]},
        "merge/sam3.pt": {},
    }
    for name, values in files.items():
        (results / name).parent.mkdir(parents=True)
        (results / name).write_text(json.dumps(values))


def measure(command: Sequence[object]) -> tuple[float, float]:
    """Seconds of a command, and the peak of its memory in MB."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", *map(str, command)])
    while process.poll() is None:
        # Of this program only; what `wait4` returns includes the memory of its parent.
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))])
        time.sleep(INTERVAL)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with status {process.returncode}")
    return time.perf_counter() - began, peak * 1024 / 1e6


def predict_without_model(arguments: Sequence[str]) -> None:
    """`segtune.predict`, with fixed detections for what the model finds."""
    from torch import nn

    from segtune import predict
    from segtune.core.partial_results import add_image, new_part

    records = fixed_detections()

    def predict_into(
        folder: Path, model: Any, split: Any, images: Sequence[Any], **options: Any
    ) -> None:
        with new_part(folder) as part:
            for image in images:
                add_image(part, image.id, [{"image_id": image.id, **record} for record in records])
                options["advance"]()

    with (
        patch.object(predict, "load_base_model", lambda *_: nn.Identity()),
        patch.object(predict, "set_image_size", lambda *_: SIDE),
        patch.object(predict, "predict_into", predict_into),
    ):
        predict.main(arguments)


def fixed_detections() -> list[dict[str, Any]]:
    """Discs at different places, without the id of an image."""
    from segtune.dataset.masks import mask_to_rle

    rows, columns = np.mgrid[:SIDE, :SIDE]
    records = []
    for category in range(1, len(CLASSES) + 1):
        for x, y in CENTERS:
            mask = (columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2
            box = [x - RADIUS, y - RADIUS, 2 * RADIUS + 1, 2 * RADIUS + 1]
            record = {"category_id": category, "bbox": box, "score": 0.9}
            records.append({**record, "segmentation": mask_to_rle(mask)})
    return records


if __name__ == "__main__":
    main()
