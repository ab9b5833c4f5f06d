"""Image files: their names, opening them, their depth, and their EXIF orientation."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

import numpy as np
from PIL import Image as PilImage
from PIL import ImageOps, UnidentifiedImageError

from segtune.core.errors import DatasetError, SegtuneError
from segtune.core.foreign import file_problem, reason
from segtune.dataset.masks import MAX_PIXELS

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
# By content, whatever the suffix. Pillow knows 40 more, some of which start other programs.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
EXIF_ORIENTATION = 0x0112
TRANSPOSED = (5, 6, 7, 8)  # orientations that swap width and height
DEEP_GRAY = "I;16"  # and its byte orders: Pillow's modes of 16 bits
OTHER_DEPTHS = {"I", "F"}  # Pillow's modes of 32 bits, integers and floats
MIN_BRIGHTEST = 4096  # of 65535; an image of 12 bits or fewer would be almost black

# Pillow refuses an image at twice its limit, and warns before: here, the limit holds.
warnings.simplefilter("error", PilImage.DecompressionBombWarning)


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
        if content is None and (problem := file_problem(path)):
            raise OSError(problem)
        with PilImage.open(
            path if content is None else io.BytesIO(content), formats=IMAGE_FORMATS
        ) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"more than {MAX_PIXELS} pixels")
            yield image
    except SegtuneError:
        raise
    except UnidentifiedImageError:
        problem = f"it is not {', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]}"
        raise kind(f"cannot read the image ({problem})", file=path, fix=fix) from None
    # Foreign bytes: in a damaged file, Pillow's decoders run into almost any exception.
    except Exception as error:
        raise kind(f"cannot read the image ({reason(error)})", file=path, fix=fix) from None


def eight_bits(image: PilImage.Image) -> PilImage.Image:
    """The image with 8 bits for each channel; Pillow itself would turn a deeper one white.

    Of 16 bits, the upper 8 remain, as in Pillow's own reading of 16-bit color.

    Raises:
        ValueError: for 32 bits, whose range differs from file to file, and for 16 bits of which
            only the lowest 12 are used.
    """
    if image.mode in OTHER_DEPTHS:
        kind = "float" if image.mode == "F" else "integer"
        raise ValueError(f"32-bit {kind} pixels; save it with 8 or 16 bits")
    if not image.mode.startswith(DEEP_GRAY):
        return image
    pixels = np.asarray(image)
    brightest = int(pixels.max())
    if 0 < brightest < MIN_BRIGHTEST:
        raise ValueError(
            f"16-bit pixels of at most {brightest} of 65535, which is almost black; "
            "stretch it to the full range"
        )
    return PilImage.fromarray((pixels >> 8).astype(np.uint8))


def upright_rgb(path: Path, draft_side: int | None = None) -> PilImage.Image:
    """Read an image in RGB with 8 bits, rotated according to its EXIF orientation.

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
        return eight_bits(ImageOps.exif_transpose(image)).convert("RGB")


def upright_size(image: PilImage.Image) -> tuple[int, int]:
    """(width, height) in pixels, once rotated according to the EXIF orientation."""
    width, height = image.size
    transposed = image.getexif().get(EXIF_ORIENTATION) in TRANSPOSED
    return (height, width) if transposed else (width, height)
