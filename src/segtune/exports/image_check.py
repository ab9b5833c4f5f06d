"""Checking that images are what their records say, and naming their content."""

import hashlib
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PilImage

from segtune.core.errors import ExportError

EXIF_ORIENTATION = 0x0112
UPRIGHT = (None, 0, 1)
LYING = (5, 6, 7, 8)  # orientations that exchange width and height


@dataclass(frozen=True)
class Expected:
    """An image and the size that the annotations assume."""

    path: Path
    width: int  # pixels
    height: int  # pixels


@dataclass(frozen=True)
class Checked:
    """An image that could be read whole."""

    path: Path
    bytes: int
    sha256: str


def check_images(expected: Iterable[Expected]) -> list[Checked]:
    """Decode and hash images, several at a time.

    Raises:
        ExportError: for the first that is missing, damaged, turned by its EXIF record, or
            of another size than recorded.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(_check, expected))


def upright_size(image: PilImage.Image) -> tuple[int, int]:
    """(width, height) in pixels once the image is turned as its EXIF record says."""
    width, height = image.size
    lying = image.getexif().get(EXIF_ORIENTATION) in LYING
    return (height, width) if lying else (width, height)


def _check(expected: Expected) -> Checked:
    content = expected.path.read_bytes()
    if not content:
        raise ExportError("the image is empty", file=expected.path, fix="Export it again")
    if content.startswith(b"version https://git-lfs"):
        raise ExportError(
            "this is a pointer of git LFS, not an image", file=expected.path, fix="git lfs pull"
        )
    size = _decode(content, expected.path)
    if size != (expected.width, expected.height):
        raise ExportError(
            f"the image has {size[0]} x {size[1]} pixels, its record says "
            f"{expected.width} x {expected.height}",
            file=expected.path,
            fix="Export the dataset again, with its images",
        )
    return Checked(expected.path, len(content), hashlib.sha256(content).hexdigest())


def _decode(content: bytes, path: Path) -> tuple[int, int]:
    try:
        with PilImage.open(io.BytesIO(content)) as image:
            orientation = image.getexif().get(EXIF_ORIENTATION)
            size = image.size
            # A JPEG is decoded at an eighth of its size: every byte is read all the same.
            image.draft(None, (size[0] // 8, size[1] // 8))
            image.load()
    except (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError) as error:
        raise ExportError(
            f"the image cannot be read ({error})", file=path, fix="Export it again"
        ) from None
    if orientation not in UPRIGHT:
        raise ExportError(
            f"its EXIF record turns the image (orientation {orientation}), so nobody can "
            "tell which way its labels were drawn",
            file=path,
            fix="Export with Roboflow's Auto-Orient preprocessing",
        )
    return size
