"""Reading a training image with ten objects, before and since masks are drawn in crops.

`python -m benchmarks.reading` tiles images of a folder (by default the demo's, and with
`--images FOLDER` photographs) to JPEGs of three sizes, and takes the CPU time of one thread, as
a data worker has. "Plain" is the way without shortcuts: whole masks as floats, and Pillow's
copies of the image; both ways must give the same bits. For a JPEG that could be decoded at half
its size or less, it also compares the pixels with those of a full decode.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from segtune.dataset.batch import load_image
from segtune.dataset.masks import segmentation_to_mask
from segtune.dataset.scaled_masks import scaled_masks

T = TypeVar("T")

IMAGES = Path(__file__).parent.parent / "data/demo/train"
SIZES = ((640, 640), (1920, 1080), (4000, 3000))  # (width, height)
SIDE = 1008
OBJECTS = 10
OBJECT_SIZE = 0.15  # of the image's width and height
QUALITY = 90
REPEATS = 5


@dataclass(frozen=True)
class Timed:
    """What a row of the table needs, in milliseconds of CPU time."""

    plain_image: float
    image: float
    plain_object: float
    object: float

    def __str__(self) -> str:
        plain, now = (
            image + OBJECTS * each
            for image, each in (
                (self.plain_image, self.plain_object),
                (self.image, self.object),
            )
        )
        return (
            f"image {self.plain_image:.1f} -> {self.image:.1f}, "
            f"object {self.plain_object:.1f} -> {self.object:.1f}, "
            f"with {OBJECTS} objects {plain:.0f} -> {now:.0f} ms"
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print one line for each size, and for each reduced one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, default=IMAGES, help="a folder of JPEGs")
    tiles = sorted(parser.parse_args(argv).images.glob("*.jp*g"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.jpg"
        for width, height in SIZES:
            tiled(tiles, width, height).save(path, quality=QUALITY)
            print(f"{width} x {height}: {timed(path, polygons(width, height))}", flush=True)
            for line in reduced(path):
                print(f"{width} x {height}, {line}", flush=True)
    torch.set_num_threads(threads)


def timed(path: Path, objects: list[list[float]]) -> Timed:
    """Both ways to read an image and to draw its objects.

    Raises:
        ValueError: where they differ.
    """
    image_ms, (pixels, (height, width)) = _fastest(lambda: load_image(path, SIDE))
    plain_image_ms, expected = _fastest(lambda: plain_pixels(path))
    masks_ms, masks = _fastest(
        lambda: scaled_masks([[o] for o in objects], height=height, width=width, side=SIDE)
    )
    plain_masks_ms, whole = _fastest(lambda: plain_masks(objects, height, width))
    if not (torch.equal(pixels, expected) and torch.equal(masks, whole)):
        raise ValueError("the two ways differ")
    return Timed(plain_image_ms, image_ms, plain_masks_ms / OBJECTS, masks_ms / OBJECTS)


def plain_pixels(path: Path) -> Tensor:
    """(3, SIDE, SIDE) uint8, the way of Pillow and torchvision."""
    with Image.open(path) as image:
        return _resized(ImageOps.exif_transpose(image).convert("RGB"))


def plain_masks(objects: list[list[float]], height: int, width: int) -> Tensor:
    """(n, SIDE, SIDE) bool, from whole masks as floats."""
    whole = np.stack([segmentation_to_mask([polygon], height, width) for polygon in objects])
    planes = torch.from_numpy(whole).float()[None]
    return F.interpolate(planes, (SIDE, SIDE), mode="bilinear", antialias=True)[0] >= 0.5


def reduced(path: Path) -> Iterator[str]:
    """Where a JPEG can be decoded at a reduced size: how fast that is, and how different."""
    with Image.open(path) as image:
        full = image.size
        image.draft("RGB", (SIDE, SIDE))
        if image.size == full:
            return
    whole_ms, whole = _fastest(lambda: plain_pixels(path))
    draft_ms, draft = _fastest(lambda: _draft_pixels(path))
    yield (
        f"decoded at {image.width} x {image.height}: {whole_ms:.0f} -> {draft_ms:.0f} ms, "
        f"{difference(draft, whole)}"
    )
    with Image.open(path) as image:
        image.save(again := io.BytesIO(), "JPEG", quality=95)
    yield f"saved again with quality 95: {difference(_resized(Image.open(again)), whole)}"


def difference(one: Tensor, other: Tensor) -> str:
    """How far two images of bytes are apart."""
    levels = (one.int() - other.int()).abs()
    return f"differs by {levels.float().mean():.2f} of 255 on average, {levels.max()} at most"


def _draft_pixels(path: Path) -> Tensor:
    with Image.open(path) as image:
        image.draft("RGB", (SIDE, SIDE))
        return _resized(image)


def _resized(image: Image.Image) -> Tensor:
    return transforms.resize(transforms.pil_to_tensor(image), [SIDE, SIDE], antialias=True)


def tiled(paths: Sequence[Path], width: int, height: int) -> Image.Image:
    """An image of this size, of others beside and below each other."""
    canvas, number = Image.new("RGB", (width, height)), 0
    top = 0
    while top < height:
        left, bottom = 0, height
        while left < width:
            with Image.open(paths[number % len(paths)]) as tile:
                canvas.paste(tile.convert("RGB"), (left, top))
                left, bottom = left + tile.width, min(bottom, top + tile.height)
            number += 1
        top = bottom
    return canvas


def polygons(width: int, height: int) -> list[list[float]]:
    """Ragged ovals anywhere in an image, x0, y0, x1, y1, …."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return [_polygon(angles, rng, width, height) for _ in range(OBJECTS)]


def _polygon(
    angles: npt.NDArray[np.float64], rng: np.random.Generator, width: int, height: int
) -> list[float]:
    radii = OBJECT_SIZE / 2 * (1 - 0.3 * rng.random(len(angles)))
    x, y = rng.uniform(OBJECT_SIZE / 2, 1 - OBJECT_SIZE / 2, 2)
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)
    values: list[float] = (points * [width, height]).ravel().tolist()
    return values


def _fastest(work: Callable[[], T]) -> tuple[float, T]:
    """The milliseconds of CPU time of the fastest repeat, and its result."""
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        result = work()
        found.append(time.process_time() - began)
    return 1000 * min(found), result


if __name__ == "__main__":
    main()
