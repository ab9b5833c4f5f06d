"""One pass over the images of a dataset: each is read and decoded once, several at a time.

Of an image remain what is wrong with it, its hash, and a thumbnail of a kilobyte by which copies
are found; so memory hardly grows with the number of images.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath

from PIL import Image as PilImage

from segtune.core.console import Advance
from segtune.core.errors import DatasetError
from segtune.core.foreign import read_bytes
from segtune.dataset.coco import Image, Manifest, ManifestEntry, Split
from segtune.dataset.findings import Found, Place
from segtune.dataset.images import (
    COPY_SUFFIX,
    DEEP_GRAY,
    EXIF_ORIENTATION,
    UPRIGHT,
    eight_bits,
    is_deep_color,
    opened_image,
    require_few_scans,
    upright_size,
)

THUMBNAIL_SIDE = 32  # pixels
DECODED_SIDE = 2 * THUMBNAIL_SIDE  # at least, of a JPEG: its grid must not show in the thumbnail
AHEAD = 8  # images per thread that are read before their turn
OPAQUE = 255
LFS_POINTER = b"version https://git-lfs"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SUFFIXES = {
    "JPEG": {".jpg", ".jpeg"},
    "PNG": {".png"},
    "BMP": {".bmp"},
    "WEBP": {".webp"},
    "TIFF": {".tif", ".tiff"},
}

Problem = tuple[str, str]  # the id of a rule, and what to say about the image


@dataclass(frozen=True, slots=True)
class ImageScan:
    """What is known of an image once its file has been read."""

    split: str
    file_name: str
    original: str  # name of the image that it was augmented from; empty where that is not known
    sha256: str  # of the file; empty where it cannot be read
    thumbnail: bytes | None  # (32, 32) gray pixels; None where it cannot be decoded
    problems: tuple[Problem, ...]

    def findings(self) -> Iterator[Found]:
        """What is wrong with the image."""
        for rule, problem in self.problems:
            text = f"{self.split}: {self.file_name}{f', {problem}' if problem else ''}"
            yield rule, Place(text, split=self.split, image=self.file_name)


def scan_images(
    splits: Sequence[Split], manifest: Manifest, *, workers: int, advance: Advance
) -> Iterator[ImageScan]:
    """Read every image of the splits, in their order.

    Nothing is raised for what is wrong with an image: `ImageScan.findings` yields it.

    Args:
        splits: as they were read.
        manifest: of their images.
        workers: threads; decoders and hashes run without Python's lock.
        advance: called once for each image.
    """
    entries = {entry.path: entry for entry in manifest.images}
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        for scan in _in_turn(pool, splits, entries, workers * AHEAD):
            advance()
            yield scan
    finally:
        # When interrupted, nobody waits for the images that were to be read next.
        pool.shutdown(cancel_futures=True)


def _in_turn(
    pool: ThreadPoolExecutor,
    splits: Sequence[Split],
    entries: Mapping[str, ManifestEntry],
    limit: int,
) -> Iterator[ImageScan]:
    """The scans of all images; at most `limit` are started before their turn."""
    started: deque[Future[ImageScan]] = deque()
    for split in splits:
        for image in split.images:
            started.append(pool.submit(_scan, split, image, entries.get(image.file_name)))
            if len(started) == limit:
                yield started.popleft().result()
    while started:
        yield started.popleft().result()


def _scan(split: Split, image: Image, entry: ManifestEntry | None) -> ImageScan:
    problems: list[Problem] = []
    sha256, thumbnail = "", None
    try:
        content = read_bytes(split.image_path(image), DatasetError, "", what="image")
    except DatasetError as error:
        problems.append(("image-missing", error.problem))
    else:
        sha256 = hashlib.sha256(content).hexdigest()
        problems += _compared_with_manifest(sha256, len(content), entry)
        if (kind := image_format(content)) is None:
            problems.append(("image-format", _what_it_is(content)))
        else:
            thumbnail = _decoded(split, image, content, problems)
            if (suffix := PurePath(image.file_name).suffix.lower()) not in SUFFIXES[kind]:
                problems.append(("image-suffix", f"{kind} in a file called {suffix}"))
    return ImageScan(
        split=split.name,
        file_name=image.file_name,
        original=_original(image),
        sha256=sha256,
        thumbnail=thumbnail,
        problems=tuple(problems),
    )


def _original(image: Image) -> str:
    name = PurePath(image.file_name).name
    without_suffix = COPY_SUFFIX.sub("", name)
    return image.original or (without_suffix if without_suffix != name else "")


def _compared_with_manifest(
    sha256: str, size: int, entry: ManifestEntry | None
) -> Iterator[Problem]:
    if entry is None:
        yield "image-unlisted", ""
    elif entry.size != size:
        yield "image-changed", f"{size} bytes instead of {entry.size}"
    elif entry.sha256 != sha256:
        yield "image-changed", "other bytes than at the time"


def image_format(content: bytes) -> str | None:
    """The format of a file by its first bytes; None where it is not one that is read."""
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if content.startswith(b"BM"):
        return "BMP"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "WEBP"
    return "TIFF" if content.startswith(TIFF_STARTS) else None


def _what_it_is(content: bytes) -> str:
    if not content:
        return "an empty file"
    if content.startswith(LFS_POINTER):
        return "a Git LFS pointer; run git lfs pull"
    kinds = {b"GIF8": "GIF", b"<": "HTML, XML or SVG", b"%PDF": "PDF", b"PK": "zip"}
    known = (kind for start, kind in kinds.items() if content.startswith(start))
    if content[4:8] == b"ftyp":  # the box with which files of the family of MP4 begin
        return "HEIC, AVIF or a video"
    return next(known, f"it begins with {content[:8].hex(' ')}")


def _decoded(split: Split, image: Image, content: bytes, problems: list[Problem]) -> bytes | None:
    """The thumbnail of an image that can be decoded to its last byte; problems are added."""
    try:
        with opened_image(split.image_path(image), content=content) as opened:
            require_few_scans(content)
            problems += _as_opened(opened, image)
            return _thumbnail(opened, problems)
    except DatasetError as error:
        problems.append(("image-damaged", error.problem))
        return None


def _as_opened(opened: PilImage.Image, image: Image) -> Iterator[Problem]:
    """What the header of an image says."""
    if (orientation := opened.getexif().get(EXIF_ORIENTATION)) not in UPRIGHT:
        yield "image-rotated", f"EXIF orientation {orientation}"
    width, height = upright_size(opened)
    if (width, height) != (image.width, image.height):
        text = f"{width} x {height} pixels instead of {image.width} x {image.height}"
        yield "image-size", text
    # A JPEG of several images, as phones make them, has previews or depths after the first.
    if getattr(opened, "is_animated", False) and opened.format != "MPO":
        yield "image-animated", ""
    if opened.mode == "CMYK":
        yield "image-cmyk", ""
    if opened.mode == "P":
        yield "image-palette", ""
    if opened.mode.startswith(DEEP_GRAY) or is_deep_color(opened):
        yield "image-16-bit", ""


def _thumbnail(opened: PilImage.Image, problems: list[Problem]) -> bytes | None:
    """(32, 32) gray pixels, stretched; None for pixels that the model could not be given."""
    deep_color = is_deep_color(opened)
    # Only brightness, at a fraction of the size: every byte of a JPEG is decoded all the same.
    reduced = opened.draft("L", (DECODED_SIDE, DECODED_SIDE))
    opened.load()
    try:
        readable = eight_bits(opened, deep_color)
    except ValueError as error:
        problems.append(("image-depth", str(error)))
        return None
    if readable.has_transparency_data and _is_transparent(readable):
        problems.append(("image-transparent", ""))
    gray = readable.convert("L")
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    # A filter of weights: with whole pixels, a mirrored copy would be another thumbnail.
    return gray.resize(side, PilImage.Resampling.BILINEAR, reduced and reduced[1]).tobytes()


def _is_transparent(image: PilImage.Image) -> bool:
    least, _ = image.convert("RGBA").getchannel("A").getextrema()
    return isinstance(least, int) and least < OPAQUE
