"""How long validation reads images and looks for copies among them, and how much memory it takes.

`python -m benchmarks.validation_scan` writes JPEG images of 640 pixels into a temporary folder:
random shapes on random backgrounds, all different. It prints the seconds of both steps and the
peak of the memory (of the process, with everything that it imports) in MB.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw

from segtune.checks.copies import copy_findings
from segtune.checks.image_scan import scan_images
from segtune.core.console import progress
from segtune.core.validate_settings import ValidateLimits
from segtune.dataset.coco import Image, Manifest, Split

SIDE = 640  # pixels
SPLITS = {"train": 0.7, "valid": 0.2, "test": 0.1}  # fractions of the images


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        splits = write_images(Path(folder), arguments.images)
        before = peak_megabytes()
        began = time.perf_counter()
        with progress("image", arguments.images) as advance:
            scans = list(
                scan_images(
                    splits,
                    Manifest(Path(folder), ()),
                    workers=arguments.workers,
                    advance=advance,
                )
            )
        scanned, after_scan = time.perf_counter(), peak_megabytes()
        copies = [rule for rule, _ in copy_findings(scans, ValidateLimits())]
        done = time.perf_counter()
    print(f"{arguments.images} images: read in {scanned - began:.1f} s, copies in", end=" ")
    print(f"{done - scanned:.1f} s; {len(copies)} findings of copies", end="; ")
    print(f"memory {before:.0f}, then {after_scan:.0f}, then {peak_megabytes():.0f} MB")


def write_images(folder: Path, count: int) -> list[Split]:
    """Write JPEG images, and return them as splits without objects."""
    splits, first = [], 0
    for name, fraction in SPLITS.items():
        numbers = range(first, first := first + round(count * fraction))
        images = tuple(Image(n + 1, f"{n}.jpg", SIDE, SIDE) for n in numbers)
        for number in numbers:
            scene(number).save(folder / f"{number}.jpg", quality=90)
        splits.append(Split(name, folder, (), images, {image.id: () for image in images}))
    return splits


def scene(seed: int, side: int = SIDE) -> PilImage.Image:
    """Shapes of random colors on a background of several scales, with the noise of a camera."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(rng.uniform(70, 180), 6, (side, side, 3)).astype(np.float32)
    for cells, contrast in ((2, 90), (4, 60), (8, 40), (16, 30), (64, 25)):
        values = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        layers = (PilImage.fromarray(values[..., n]).resize((side, side)) for n in range(3))
        pixels += contrast * rng.uniform(0.2, 1) * np.stack([*map(np.asarray, layers)], -1)
    image = PilImage.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(3, 30)):
        x, y, w, h = (rng.uniform(0, (1, 1, 0.3, 0.3)) * side).tolist()
        color = tuple(rng.integers(0, 256, 3).tolist())
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((x, y, x + w, y + h), fill=color)
    return image


def peak_megabytes() -> float:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
