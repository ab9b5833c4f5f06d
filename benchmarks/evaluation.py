"""Evaluation of 5,000 images, 30,000 objects and 50,000 detections: time and peak memory.

`python -m benchmarks.evaluation` writes a converted split with random blobs, predictions of
two models with 50,000 detections each, and a valid split of a fifth of that size. It runs
`segtune.evaluate` and `segtune.evaluate_page` on them as the workflow does.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from segtune.dataset.masks import rle_area, rle_bbox_xywh, segmentation_to_rle

WIDTH, HEIGHT = 640, 480  # pixels
CLASSES = [f"thing {letter}" for letter in "abcdefgh"]
OBJECTS_PER_IMAGE = 6
DETECTIONS_PER_IMAGE = 10
POINTS = 40  # of each outline
DETECTED = {"base": 0.5, "tuned": 0.8}  # fraction of the objects
MIB = 2**20
INTERVAL = 0.1  # seconds between two samples of the memory

Random = np.random.Generator
Blob = tuple[float, float, float]  # center x, y and radius, in pixels


def main(argv: Sequence[str] | None = None) -> None:
    """Write the splits and predictions, evaluate, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, {"test": arguments.images, "valid": arguments.images // 5})
        seconds, peak_mib = measure(evaluate_command(folder))
        page_seconds, page_mib = measure(page_command(folder))
        size = (folder / "report.html").stat().st_size / MIB
    print(
        f"{arguments.images} images, {arguments.images * OBJECTS_PER_IMAGE} objects, twice "
        f"{arguments.images * DETECTIONS_PER_IMAGE} detections: {seconds:.1f} s, "
        f"{peak_mib:.0f} MiB; report.html: {page_seconds:.1f} s, {page_mib:.0f} MiB, "
        f"{size:.1f} MiB on disk"
    )


def write_data(folder: Path, images: dict[str, int]) -> None:
    """Converted splits with their predictions in `folder`."""
    (folder / "coco").mkdir()
    (folder / "coco/manifest.json").write_text(json.dumps({"root": str(folder), "images": []}))
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(folder / "image.jpg")
    for split, count in images.items():
        objects = [
            (image, int(rng.integers(len(CLASSES))), _blob(rng))
            for image in range(1, count + 1)
            for _ in range(OBJECTS_PER_IMAGE)
        ]
        (folder / f"coco/{split}.json").write_text(json.dumps(_split(split, count, objects, rng)))
        for image in range(1, count + 1):
            os.link(folder / "image.jpg", folder / f"{split}{image}.jpg")
        for model, fraction in DETECTED.items():
            results = _results(count, objects, fraction=fraction, rng=rng)
            name = model if split == "test" else f"{model}_{split}"
            (folder / f"{name}.json").write_text(json.dumps(results))


def evaluate_command(folder: Path) -> list[object]:
    command = ["segtune.evaluate", "--coco", folder / "coco/test.json"]
    command += ["--valid", folder / "coco/valid.json", "--out", folder / "evaluate"]
    for name in ("base", "tuned", "base_valid", "tuned_valid"):
        command += [f"--{name.replace('_', '-')}", folder / f"{name}.json"]
    return command


def page_command(folder: Path) -> list[object]:
    command = ["segtune.evaluate_page", "--metrics", folder / "evaluate/metrics.json"]
    command += ["--coco", folder / "coco/test.json", "--valid", folder / "coco/valid.json"]
    command += ["--base", folder / "base.json", "--tuned", folder / "tuned.json"]
    return [*command, "--out", folder / "report.html"]


def measure(command: Sequence[object]) -> tuple[float, float]:
    """Seconds of a command, and peak MiB of all its processes together."""
    began, peak = time.perf_counter(), 0
    process = psutil.Popen([sys.executable, "-m", *map(str, command)])
    while process.poll() is None:
        peak = max(peak, memory(process))
        time.sleep(INTERVAL)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with status {process.returncode}")
    return time.perf_counter() - began, peak / MIB


def memory(process: psutil.Process) -> int:
    """Bytes of a process and its descendants, counting shared memory once."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for member in (process, *process.children(recursive=True)):
            total += member.memory_full_info().pss
    return total


def _split(
    split: str, count: int, objects: list[tuple[int, int, Blob]], rng: Random
) -> dict[str, Any]:
    annotations = []
    for number, (image, place, blob) in enumerate(objects, start=1):
        polygon = _outline(blob, rng)
        rle = segmentation_to_rle([polygon], HEIGHT, WIDTH)
        annotations.append(
            {
                "id": number,
                "image_id": image,
                "category_id": place + 1,
                "bbox": rle_bbox_xywh(rle),
                "area": rle_area(rle),
                "segmentation": [polygon],
                "iscrowd": 0,
            }
        )
    return {
        "images": [
            {"id": n, "file_name": f"{split}{n}.jpg", "width": WIDTH, "height": HEIGHT}
            for n in range(1, count + 1)
        ],
        "annotations": annotations,
        "categories": [
            {"id": n, "name": name, "supercategory": "none", "prompt": name}
            for n, name in enumerate(CLASSES, start=1)
        ],
    }


def _results(
    count: int, objects: list[tuple[int, int, Blob]], *, fraction: float, rng: Random
) -> list[dict[str, Any]]:
    """Some of the objects, slightly displaced, and blobs at random places."""
    found = [o for o in objects if rng.random() < fraction]
    strays = count * DETECTIONS_PER_IMAGE - len(found)
    records = [_result(o, float(rng.beta(4, 2)), rng) for o in found]
    for _ in range(strays):
        place = (int(rng.integers(1, count + 1)), int(rng.integers(len(CLASSES))), _blob(rng))
        records.append(_result(place, float(rng.beta(1, 4)), rng))
    return sorted(records, key=lambda record: record["image_id"])


def _result(place: tuple[int, int, Blob], score: float, rng: Random) -> dict[str, Any]:
    image, category, (x, y, radius) = place
    moved = (x + rng.normal(0, radius / 10), y + rng.normal(0, radius / 10), radius)
    rle = segmentation_to_rle([_outline(moved, rng)], HEIGHT, WIDTH)
    return {
        "image_id": image,
        "category_id": category + 1,
        "bbox": rle_bbox_xywh(rle),
        "score": score,
        "segmentation": rle,
    }


def _blob(rng: Random) -> Blob:
    radius = float(rng.uniform(6, 70))
    x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
    return (
        float(np.clip(x, radius, WIDTH - radius)),
        float(np.clip(y, radius, HEIGHT - radius)),
        radius,
    )


def _outline(blob: Blob, rng: Random) -> list[float]:
    x, y, radius = blob
    turns = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    radii = radius * (1 + 0.05 * rng.standard_normal(POINTS))
    points = np.stack([x + radii * np.cos(turns), y + radii * np.sin(turns)], axis=1)
    return [float(value) for value in points.clip(0, (WIDTH, HEIGHT)).round(1).ravel()]


if __name__ == "__main__":
    main()
