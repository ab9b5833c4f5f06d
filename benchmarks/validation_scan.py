"""How long validation takes, and how much memory: the whole command, with every check.

`python -m benchmarks.validation_scan` writes JPEG images of 640 pixels into a temporary folder,
random shapes on random backgrounds, all different, and validates the first 1,000, 3,000 and 10,000
of them, with five objects each, whose masks are polygons and RLEs in turns. `segtune.validate` is
a process of its own. Printed are its seconds, those of its CPU time, and its peak of memory.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage
from PIL import ImageDraw

from segtune.dataset.coco import (
    MANIFEST,
    Annotation,
    Category,
    Image,
    Manifest,
    ManifestEntry,
    Split,
    write_manifest,
    write_split,
)
from segtune.dataset.masks import rle_area, rle_bbox_xywh, segmentation_to_rle

SIDE = 640  # pixels
SPLITS = {"train": 0.7, "valid": 0.2, "test": 0.1}  # fractions of the images
CATEGORIES = tuple(Category(n, name, name) for n, name in enumerate(("disc", "plate", "coin"), 1))
POINTS = 50  # of each outline

Pixels = npt.NDArray[np.float32]  # (side, side, 3)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--objects", type=int, default=5, help="of each image")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        entries = write_images(folder / "images", max(arguments.images), arguments.workers)
        written = sum(entry.size for entry in entries) / 1e6
        print(f"wrote {written:.0f} MB of images in {time.perf_counter() - began:.0f} s")
        for count in arguments.images:
            write_dataset(folder / "coco", folder / "images", entries[:count], arguments.objects)
            print(f"{count} images: {validated(folder, arguments.workers)}", flush=True)


def write_images(folder: Path, count: int, workers: int) -> list[ManifestEntry]:
    """Write JPEG images, several at a time."""
    folder.mkdir()
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(partial(_write_image, folder), range(count), chunksize=32))


def _write_image(folder: Path, number: int) -> ManifestEntry:
    path = folder / f"{number}.jpg"
    quick_scene(number).save(path, quality=90)
    content = path.read_bytes()
    return ManifestEntry(path.name, len(content), hashlib.sha256(content).hexdigest())


def write_dataset(coco: Path, root: Path, entries: Sequence[ManifestEntry], objects: int) -> None:
    """Write the splits and the manifest of some images."""
    coco.mkdir(exist_ok=True)
    write_manifest(coco / MANIFEST, Manifest(root, tuple(entries)), coco)
    first = 0
    for name, fraction in SPLITS.items():
        own = entries[first : (first := first + round(fraction * len(entries)))]
        images = tuple(Image(n, entry.path, SIDE, SIDE) for n, entry in enumerate(own, start=1))
        annotations = {image.id: _objects(image, objects) for image in images}
        write_split(coco / f"{name}.json", Split(name, root, CATEGORIES, images, annotations))


def _objects(image: Image, count: int) -> tuple[Annotation, ...]:
    """Ellipses with ragged outlines; not those that the image shows, which no check looks at."""
    rng = np.random.default_rng(int(Path(image.file_name).stem))
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    found = []
    for place in range(count):
        radius = rng.uniform(10, 60, 2) * rng.uniform(0.9, 1.1, (POINTS, 2))
        points = rng.uniform(70, SIDE - 70, 2) + radius * np.stack(
            [np.cos(angles), np.sin(angles)], 1
        )
        polygon = [points.round(2).ravel().tolist()]
        rle = segmentation_to_rle(polygon, SIDE, SIDE)
        found.append(
            Annotation(
                id=count * image.id + place,
                image_id=image.id,
                category_id=CATEGORIES[place % len(CATEGORIES)].id,
                bbox_xywh=rle_bbox_xywh(rle),
                area=rle_area(rle),
                segmentation=rle if place % 2 else polygon,
                iscrowd=0,
            )
        )
    return tuple(found)


def validated(folder: Path, workers: int) -> str:
    """Validate a dataset, and say what that took."""
    command = [sys.executable, "-m", "segtune.validate", "--workers", str(workers)]
    paths = ["--coco", str(folder / "coco"), "--out", str(folder / "validate")]
    began = time.perf_counter()
    with subprocess.Popen([*command, *paths], stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"segtune.validate ended with {process.returncode}")
    processor = used.ru_utime + used.ru_stime
    return f"{seconds:.1f} s, {processor:.1f} s of CPU time, {used.ru_maxrss / 1024:.0f} MB"


def scene(seed: int, side: int = SIDE) -> PilImage.Image:
    """Shapes of random colors on a background of several scales, with the noise of a camera."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(rng.uniform(70, 180), 6, (side, side, 3)).astype(np.float32)
    return _with_shapes(_as_image(_with_scales(pixels, rng)), rng)


def quick_scene(seed: int) -> PilImage.Image:
    """The same kind of image in a seventh of the time: enlarged, with the same noise elsewhere."""
    rng = np.random.default_rng(seed)
    pixels = np.full((SIDE // 10, SIDE // 10, 3), rng.uniform(70, 180), np.float32)
    coarse = _as_image(_with_scales(pixels, rng)).resize((SIDE, SIDE))
    noise = np.roll(_noise(), rng.integers(0, SIDE, 2), (0, 1))
    return _with_shapes(_as_image(np.asarray(coarse) + noise), rng)


@cache
def _noise() -> Pixels:
    return np.random.default_rng(0).normal(0, 6, (SIDE, SIDE, 3)).astype(np.float32)


def _with_scales(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Random colors on grids of 2 to 64 cells, enlarged, are added."""
    side = len(pixels)
    for cells, contrast in ((2, 90), (4, 60), (8, 40), (16, 30), (64, 25)):
        values = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        layers = (PilImage.fromarray(values[..., n]).resize((side, side)) for n in range(3))
        pixels += contrast * rng.uniform(0.2, 1) * np.stack([*map(np.asarray, layers)], -1)
    return pixels


def _as_image(pixels: Pixels) -> PilImage.Image:
    return PilImage.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _with_shapes(image: PilImage.Image, rng: np.random.Generator) -> PilImage.Image:
    draw, side = ImageDraw.Draw(image), image.width
    for _ in range(rng.integers(3, 30)):
        x, y, w, h = (rng.uniform(0, (1, 1, 0.3, 0.3)) * side).tolist()
        color = tuple(rng.integers(0, 256, 3).tolist())
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), fill=color)
    return image


if __name__ == "__main__":
    main()
