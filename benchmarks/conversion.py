"""Converting 10,000 images with 50,000 masks: seconds and peak memory, compared with others.

`python -m benchmarks.conversion` writes a synthetic export in Roboflow's COCO layout and
converts it with segtune, datumaro and supervision, the latter two in virtual environments of
their own. Each runs as its own process, one after the other; what takes longer than half an
hour or more than 12 GB is stopped and reported as such. segtune decodes every image and
rasterizes every mask; datumaro is shown doing that and doing neither.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

WIDTH, HEIGHT = 640, 480  # pixels
MASKS_PER_IMAGE = 5
POINTS = 50  # of each polygon
FRACTIONS = {"train": 0.8, "valid": 0.1, "test": 0.1}
CLASSES = [f"thing {letter}" for letter in "abcdefgh"]
OTHERS = {  # row of the table: requirement
    "datumaro, labels copied": "datumaro==1.13.12",
    "datumaro, the same work": "datumaro==1.13.12",
    "supervision": "supervision==0.31.2",
}
MAX_BYTES = 12 * 2**30  # of memory
MAX_SECONDS = 1800
DATUMARO = """
import sys
from datumaro import Dataset
data = Dataset.import_from(sys.argv[1], "roboflow_coco")
{work}data.export(f"{{sys.argv[2]}}/coco", "coco_instances")
"""
DECODE_AND_RASTERIZE = """
for item in data:
    item.media.data
data.transform("polygons_to_masks")
"""
SUPERVISION = """
import sys
from supervision import DetectionDataset
for split in ("train", "valid", "test"):
    folder = f"{sys.argv[1]}/{split}"
    data = DetectionDataset.from_coco(folder, f"{folder}/_annotations.coco.json", force_masks=True)
    data.as_coco(annotations_path=f"{sys.argv[2]}/{split}.json")
"""
SCRIPTS = {
    "datumaro, labels copied": DATUMARO.format(work=""),
    "datumaro, the same work": DATUMARO.format(work=DECODE_AND_RASTERIZE),
    "supervision": SUPERVISION,
}


@dataclass(frozen=True)
class Cost:
    """The cost of one conversion; `failure` says why there is no result."""

    seconds: float
    peak_mb: float
    failure: str = ""


def main(argv: Sequence[str] | None = None) -> None:
    """Write the export, convert it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--environments", type=Path, help="of the others, to be reused")
    parser.add_argument("--only-segtune", action="store_true", help="without the others")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_export(folder / "export", arguments.images)
        masks = arguments.images * MASKS_PER_IMAGE
        table = Table("converter", "seconds", "peak MB", title=f"{masks} masks")
        environments = arguments.environments or folder / "environments"
        for name, command in commands(folder, environments):
            cost = run(command)
            seconds = cost.failure[:60] or f"{cost.seconds:.1f}"
            table.add_row(name, seconds, f"{cost.peak_mb:.0f}")
            if arguments.only_segtune:
                break
        Console().print(table)


def commands(folder: Path, environments: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and command line of each converter, whose environment is created when needed."""
    paths = [str(folder / "export"), str(folder / "segtune")]
    yield (
        "segtune",
        [sys.executable, "-m", "segtune.convert", "--export", paths[0], "--out", paths[1]],
    )
    for name, requirement in OTHERS.items():
        place = environments / requirement
        python = place / "bin" / "python"
        if not python.exists():
            venv.create(place, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "-q", requirement], check=True)
        (folder / name).mkdir()
        yield (
            f"{name} ({requirement})",
            [str(python), "-I", "-c", SCRIPTS[name], paths[0], str(folder / name)],
        )


def run(command: list[str]) -> Cost:
    """Run a command as its own process, within limits, and measure it."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            ["timeout", str(MAX_SECONDS), *command],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES)),
        )
        _, status, usage = os.wait4(process.pid, 0)
        errors.seek(0)
        lines = errors.read().strip().splitlines() or ["killed, or too slow"]
    # Linux counts the peak in KiB.
    return Cost(time.monotonic() - began, usage.ru_maxrss / 1024, lines[-1] if status else "")


def write_export(folder: Path, images: int) -> None:
    """Images that differ only in their last bytes, and polygons with three bulges."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray((255 * rng.random((48, 64, 3))).astype(np.uint8))
    stream = io.BytesIO()
    noise.resize((WIDTH, HEIGHT)).save(stream, "JPEG", quality=80)
    for split, fraction in FRACTIONS.items():
        (folder / split).mkdir(parents=True)
        names = [f"{split}{n}_jpg.rf.{n:032x}.jpg" for n in range(round(fraction * images))]
        for name in names:
            (folder / split / name).write_bytes(stream.getvalue() + name.encode())
        tables = {
            "images": [
                {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT}
                for number, name in enumerate(names)
            ],
            "annotations": [
                annotation(number, rng) for number in range(len(names) * MASKS_PER_IMAGE)
            ],
            "categories": [
                {"id": number, "name": name, "supercategory": "things" if number else "none"}
                for number, name in enumerate(["things", *CLASSES])
            ],
        }
        (folder / split / "_annotations.coco.json").write_text(json.dumps(tables), "utf-8")


def annotation(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """One object as Roboflow writes it."""
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    radii = rng.uniform(20, 80) * (1 + 0.2 * np.cos(3 * angles))
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = (rng.uniform(100, 380, 2) + radii[:, None] * circle).round(2)
    low, size = points.min(0), np.ptp(points, axis=0)
    return {
        "id": number,
        "image_id": number // MASKS_PER_IMAGE,
        "category_id": 1 + number % len(CLASSES),
        "bbox": [*low.tolist(), *size.round(2).tolist()],
        "area": float(size[0] * size[1]),
        "segmentation": [points.ravel().tolist()],
        "iscrowd": 0,
    }


if __name__ == "__main__":
    main()
