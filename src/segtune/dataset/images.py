"""Image files: opening them, their depth, and their EXIF orientation."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from PIL import ImageFile, ImageOps, UnidentifiedImageError

from segtune.core.errors import DatasetError, SegtuneError
from segtune.core.foreign import reason, require_file
from segtune.dataset.masks import MAX_PIXELS

# By content, whatever the suffix. Pillow knows 40 more, some of which start other programs.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
EXIF_ORIENTATION = 0x0112
UPRIGHT = (None, 0, 1)  # orientations
TRANSPOSED = (5, 6, 7, 8)  # orientations that swap width and height
COPY_SUFFIX = re.compile(r"\.rf\.[0-9A-Za-z]+(?=\.\w+$)")  # what Roboflow appends to a name
DEEP_GRAY = "I;16"  # and its byte orders: Pillow's modes of 16 bits
OTHER_DEPTHS = {"I", "F"}  # Pillow's modes of 32 bits, integers and floats
DEEP_COLOR = re.compile(r";16[BLN]")  # in Pillow's names of 16 bits for each channel
MIN_BRIGHTEST = 4096  # of 65535; an image of 12 bits or fewer would be almost black
MAX_SCANS = 100  # of a JPEG; a progressive one has about ten, and each decodes all pixels again
# A marker of a JPEG; within a scan, 0xff is followed by 0, or by the marker of a restart.
JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9

# Pillow refuses an image at twice its limit, and warns before: here, the limit holds.
warnings.simplefilter("error", PilImage.DecompressionBombWarning)


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
        if content is None:
            require_file(path)
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


def require_few_scans(content: bytes) -> None:
    """Check that the content of an image file does not decode all of its pixels again and again.

    Raises:
        ValueError: for a JPEG of more than 100 scans.
    """
    if not content.startswith(b"\xff\xd8"):
        return
    place, scans = 2, 0
    while (match := JPEG_MARKER.search(content, place)) and match[1][0] != END_OF_IMAGE:
        scans += match[1][0] == START_OF_SCAN
        if scans > MAX_SCANS:
            raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")
        # Segments begin with their length; a thumbnail in one has markers of its own.
        place = match.end() + int.from_bytes(content[match.end() : match.end() + 2])


def is_deep_color(image: PilImage.Image) -> bool:
    """Whether an image that has only been opened has 16 bits for each of several channels."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return len(image.getbands()) > 1 and any(DEEP_COLOR.search(str(tile[3])) for tile in tiles)


def eight_bits(image: PilImage.Image, deep_color: bool) -> PilImage.Image:
    """The image with 8 bits for each channel; Pillow itself would turn a deeper one white.

    Of 16 bits, the upper 8 remain, as in Pillow's own reading of 16-bit color.

    Args:
        image: as it was opened.
        deep_color: from `is_deep_color`, before the pixels were read.

    Raises:
        ValueError: for 32 bits, whose range differs from file to file, and for 16 bits of which
            only the lowest 12 are used.
    """
    if image.mode in OTHER_DEPTHS:
        kind = "float" if image.mode == "F" else "integer"
        raise ValueError(f"32-bit {kind} pixels; save it with 8 or 16 bits")
    if deep_color:
        _require_bright(_brightest(image) * 256 + 255)
    if not image.mode.startswith(DEEP_GRAY):
        return image
    pixels = np.asarray(image)
    # Zero is an image that is meant to be black.
    if brightest := int(pixels.max()):
        _require_bright(brightest)
    return PilImage.fromarray((pixels >> 8).astype(np.uint8))


def _brightest(image: PilImage.Image) -> int:
    """The largest value of all channels but the opacity."""
    return max(
        int(np.asarray(image.getchannel(band)).max()) for band in image.getbands() if band != "A"
    )


def _require_bright(brightest: int) -> None:
    if brightest < MIN_BRIGHTEST:
        raise ValueError(
            f"16-bit pixels of at most {brightest} of 65535, which is almost black; "
            "stretch it to the full range"
        )


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
        deep_color = is_deep_color(image)
        if draft_side:
            image.draft("RGB", (draft_side, draft_side))
        # Copies of a large photograph take as long as half of its decoding: none without need.
        ImageOps.exif_transpose(image, in_place=True)
        upright = eight_bits(image, deep_color)
        return upright if upright.mode == "RGB" else upright.convert("RGB")


def upright_of_size(path: Path, width: int, height: int) -> PilImage.Image:
    """`upright_rgb` of an image whose size in pixels is known.

    Raises:
        DatasetError: when the image cannot be read, or has another size.
    """
    pixels = upright_rgb(path)
    if pixels.size != (width, height):
        raise DatasetError(
            f"the image has {pixels.width} x {pixels.height} pixels instead of {width} x {height}",
            file=path,
            fix="Run segtune.convert again",
        )
    return pixels


def upright_size(image: PilImage.Image) -> tuple[int, int]:
    """(width, height) in pixels, once rotated according to the EXIF orientation."""
    width, height = image.size
    transposed = image.getexif().get(EXIF_ORIENTATION) in TRANSPOSED
    return (height, width) if transposed else (width, height)
