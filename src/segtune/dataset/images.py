"""Image files: their names, opening them, and their EXIF orientation."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from PIL import Image as PilImage
from PIL import ImageOps

from segtune.core.errors import DatasetError, SegtuneError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
EXIF_ORIENTATION = 0x0112
TRANSPOSED = (5, 6, 7, 8)  # orientations that swap width and height
# What Pillow raises for files that are damaged, not images, or too large.
_UNREADABLE = (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError)


def is_image_name(path: PurePath) -> bool:
    """Whether a file is an image by its suffix, and not one of macOS's `._` files."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._")


@contextmanager
def opened_image(
    path: Path,
    kind: type[SegtuneError] = DatasetError,
    fix: str | None = None,
    *,
    content: bytes | None = None,
) -> Iterator[PilImage.Image]:
    """Open an image file; whatever Pillow raises within becomes one clear error.

    Args:
        path: of the file.
        kind: of the error.
        fix: of the error.
        content: of the file, where it has been read already.

    Raises:
        SegtuneError: of this kind, when the image cannot be read.
    """
    try:
        with PilImage.open(path if content is None else io.BytesIO(content)) as image:
            yield image
    except _UNREADABLE as error:
        raise kind(f"cannot read the image ({error})", file=path, fix=fix) from None


def upright_rgb(path: Path, draft_side: int | None = None) -> PilImage.Image:
    """Read an image in RGB, rotated according to its EXIF orientation.

    Args:
        path: of the file.
        draft_side: pixels; a large JPEG may be decoded at a reduced size, with sides of at
            least this length.

    Raises:
        DatasetError: when the image cannot be read.
    """
    with opened_image(path) as image:
        if draft_side:
            image.draft("RGB", (draft_side, draft_side))
        return ImageOps.exif_transpose(image).convert("RGB")


def upright_size(image: PilImage.Image) -> tuple[int, int]:
    """(width, height) in pixels, once rotated according to the EXIF orientation."""
    width, height = image.size
    transposed = image.getexif().get(EXIF_ORIENTATION) in TRANSPOSED
    return (height, width) if transposed else (width, height)
