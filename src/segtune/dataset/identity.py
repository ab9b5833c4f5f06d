"""What predictions on a split depend on, as digests: its prompts and its image files."""

from typing import Any

from segtune.core.errors import DatasetError
from segtune.core.fingerprints import json_digest
from segtune.dataset.coco import Image, Split, image_record


def split_digests(split: Split) -> dict[str, str]:
    """Digests of a split's categories and of its images, whose files are not read.

    Raises:
        DatasetError: when an image is missing.
    """
    return {
        "classes": json_digest([[c.id, c.name, c.prompt] for c in split.categories]),
        "images": json_digest([_identity(split, image) for image in split.images]),
    }


def _identity(split: Split, image: Image) -> list[Any]:
    try:
        found = split.image_path(image).stat()
    except OSError as error:
        file = split.image_path(image)
        raise DatasetError(f"cannot read the image ({error.strerror})", file=file) from None
    return [image_record(image), found.st_size, found.st_mtime_ns]
