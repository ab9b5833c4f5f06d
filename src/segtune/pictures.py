"""Checking that pictures are what their records say, and naming their content."""

import hashlib
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PilImage

from segtune.errors import ExportError

EXIF_ORIENTATION = 0x0112
UPRIGHT = (None, 0, 1)
LYING = (5, 6, 7, 8)  # orientations that exchange width and height


@dataclass(frozen=True)
class Expected:
    """A picture and the size that the annotations assume."""

    path: Path
    width: int  # pixels
    height: int  # pixels


@dataclass(frozen=True)
class Checked:
    """A picture that could be read whole."""

    path: Path
    bytes: int
    sha256: str


def check_pictures(expected: Iterable[Expected]) -> list[Checked]:
    """Decode and hash pictures, several at a time.

    Raises:
        ExportError: for the first that is missing, damaged, turned by its EXIF record, or
            of another size than recorded.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(_check, expected))


def upright_size(picture: PilImage.Image) -> tuple[int, int]:
    """(width, height) in pixels once the picture is turned as its EXIF record says."""
    width, height = picture.size
    lying = picture.getexif().get(EXIF_ORIENTATION) in LYING
    return (height, width) if lying else (width, height)


def _check(expected: Expected) -> Checked:
    content = expected.path.read_bytes()
    if not content:
        raise ExportError("the picture is empty", file=expected.path, remedy="Export it again")
    if content.startswith(b"version https://git-lfs"):
        raise ExportError(
            "this is a pointer of git LFS, not a picture", file=expected.path, remedy="git lfs pull"
        )
    size = _decode(content, expected.path)
    if size != (expected.width, expected.height):
        raise ExportError(
            f"the picture has {size[0]} x {size[1]} pixels, its record says "
            f"{expected.width} x {expected.height}",
            file=expected.path,
            remedy="Export the dataset again, with its pictures",
        )
    return Checked(expected.path, len(content), hashlib.sha256(content).hexdigest())


def _decode(content: bytes, path: Path) -> tuple[int, int]:
    try:
        with PilImage.open(io.BytesIO(content)) as picture:
            orientation = picture.getexif().get(EXIF_ORIENTATION)
            size = picture.size
            # A JPEG is decoded at an eighth of its size: every byte is read all the same.
            picture.draft(None, (size[0] // 8, size[1] // 8))
            picture.load()
    except (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError) as error:
        raise ExportError(
            f"the picture cannot be read ({error})", file=path, remedy="Export it again"
        ) from None
    if orientation not in UPRIGHT:
        raise ExportError(
            f"its EXIF record turns the picture (orientation {orientation}), so nobody can "
            "tell which way its labels were drawn",
            file=path,
            remedy="Export with Roboflow's Auto-Orient preprocessing",
        )
    return size
