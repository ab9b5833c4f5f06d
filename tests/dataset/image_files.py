"""Image files on disk, as splits of a converted dataset."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image as PilImage

from segtune.dataset.coco import Image, Manifest, ManifestEntry, Split
from segtune.dataset.image_scan import ImageScan, scan_images

WIDTH, HEIGHT = 96, 64  # pixels, of the records

Contents = Mapping[str, bytes | None]  # by file name; None is a file that is not there


def encoded(image: PilImage.Image, kind: str, **options: Any) -> bytes:
    """The image as a file of a format."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_split(folder: Path, contents: Contents, name: str = "train", original: str = "") -> Split:
    """Write the files, and return them as a split without objects."""
    for file_name, content in contents.items():
        if content is not None:
            (folder / file_name).parent.mkdir(parents=True, exist_ok=True)
            (folder / file_name).write_bytes(content)
    images = tuple(
        Image(number, file_name, WIDTH, HEIGHT, original=original)
        for number, file_name in enumerate(contents, start=1)
    )
    return Split(name, folder, (), images, {image.id: () for image in images})


def manifest_of(folder: Path, contents: Contents) -> Manifest:
    """The manifest at the time when the files had these contents."""
    return Manifest(
        folder,
        tuple(
            ManifestEntry(name, len(content or b""), hashlib.sha256(content or b"").hexdigest())
            for name, content in contents.items()
        ),
    )


def scan_splits(*splits: Split, manifest: Manifest | None = None) -> list[ImageScan]:
    """The scans of all images."""
    known = manifest or Manifest(splits[0].root, ())
    return list(scan_images(splits, known, workers=2, advance=unnoticed))


def unnoticed(done: int = 1, note: str = "") -> None:
    """Progress that is not shown."""
