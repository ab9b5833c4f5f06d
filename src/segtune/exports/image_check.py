"""Checking that image files are intact and of the recorded size, and hashing them."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from segtune.core.cores import usable_cores
from segtune.core.errors import ExportError
from segtune.core.foreign import read_bytes
from segtune.dataset.images import (
    EXIF_ORIENTATION,
    UPRIGHT,
    eight_bits,
    is_deep_color,
    opened_image,
    require_few_scans,
)
from segtune.exports.split_source import EXPORT_AGAIN, EXPORT_IMAGES, SourceImage


@dataclass(frozen=True)
class CheckedImage:
    """An image file that could be read whole."""

    path: Path
    size: int  # bytes
    sha256: str


def check_images(images: Iterable[SourceImage]) -> list[CheckedImage]:
    """Decode and hash images, several at a time.

    Raises:
        ExportError: for the first that is missing, damaged, rotated by its EXIF orientation,
            or of another size than recorded.
    """
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        return list(pool.map(_check, images))


def _check(image: SourceImage) -> CheckedImage:
    path = image.path
    content = read_bytes(path, ExportError, EXPORT_AGAIN, what="image")
    if not content:
        raise ExportError("the image file is empty", file=path, fix=EXPORT_AGAIN)
    if content.startswith(b"version https://git-lfs"):
        raise ExportError("a Git LFS pointer, not an image", file=path, fix="Run git lfs pull")
    width, height = _decoded_size(path, content)
    if (width, height) != (image.width, image.height):
        raise ExportError(
            f"the image has {width} x {height} pixels, but its record says "
            f"{image.width} x {image.height}",
            file=path,
            fix=EXPORT_IMAGES,
        )
    return CheckedImage(path, len(content), hashlib.sha256(content).hexdigest())


def _decoded_size(path: Path, content: bytes) -> tuple[int, int]:
    """(width, height) in pixels of an image that could be decoded to its last byte."""
    with opened_image(path, ExportError, EXPORT_AGAIN, content=content) as image:
        orientation = image.getexif().get(EXIF_ORIENTATION)
        width, height = image.size
        require_few_scans(content)
        deep_color = is_deep_color(image)
        # A JPEG is decoded at an eighth of its size: every byte is read all the same.
        image.draft(None, (width // 8, height // 8))
        image.load()
        eight_bits(image, deep_color)
    if orientation not in UPRIGHT:
        raise ExportError(
            f"rotated by its EXIF orientation ({orientation}), so the orientation of its labels "
            "is ambiguous",
            file=path,
            fix="Export with Roboflow's Auto-Orient preprocessing",
        )
    return width, height
