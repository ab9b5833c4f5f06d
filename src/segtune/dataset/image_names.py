"""Names of the images below a folder, of which there may be millions: no image is opened."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath

from segtune.core.errors import DatasetError, shown
from segtune.core.foreign import read_bytes, reason

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def is_image_name(path: PurePath) -> bool:
    """Whether a file is an image by its suffix, and not one of macOS's `._` files."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._")


def image_names(folder: Path, *, setting: str) -> Iterator[str]:
    """The images below a folder as paths relative to it, with "/", in any order.

    Args:
        folder: is searched with its subfolders, but not with those that are links.
        setting: that names the folder, for messages.

    Raises:
        DatasetError: when a folder cannot be read.
    """
    waiting = [""]
    try:
        while waiting:
            parent = waiting.pop()
            with os.scandir(folder / parent) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{parent}{entry.name}/")
                    elif is_image_name(PurePath(entry.name)):
                        yield parent + entry.name
    except OSError as error:
        problem = f"cannot read the folder ({reason(error)})"
        raise DatasetError(problem, file=folder / parent, fix=f"Check {setting}") from None


def sort_key(name: str) -> bytes:
    """By which names are sorted: folder by folder, whatever characters come before "/"."""
    return os.fsencode(name).replace(b"/", b"\0")


def names_fingerprint(folder: Path, *, setting: str) -> str:
    """`folder@hash` of the names of its images, in whatever order the file system lists them.

    Raises:
        DatasetError: when a folder cannot be read.
    """
    total, count = 0, 0
    for name in image_names(folder, setting=setting):
        total += int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")
        count += 1
    return f"{folder}@{total % 2**64:016x} ({count} images)"


def read_list(path: Path) -> list[str]:
    """The image names of a text file with one in each line.

    Raises:
        DatasetError: when it cannot be read, is empty, or has a name that leads out of the folder
            of the images.
    """
    fix = "Give the paths of images below their folder, one in each line"
    lines = read_bytes(path, DatasetError, fix, what="list of images").splitlines()
    if not lines:
        raise DatasetError("no images in this list", file=path, fix=fix)
    names = [os.fsdecode(line) for line in lines]
    for number, name in enumerate(names, start=1):
        pure = PurePosixPath(name)
        if not pure.name or pure.is_absolute() or ".." in pure.parts:
            problem = f"{shown(name)} is not the path of an image below a folder"
            raise DatasetError(problem, file=path, record=f"line {number}", fix=fix)
    return names
