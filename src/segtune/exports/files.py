"""Finding the files of an export: by suffix and name in any letter case, and regular files only.

A pipe or a device among them would block a reader; a dangling link is an image or its labels
gone missing.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from segtune.core.errors import ExportError
from segtune.core.foreign import file_problem
from segtune.dataset.image_names import IMAGE_SUFFIXES

NOT_AN_EXPORT = "Replace it by a regular file, or remove it"
RENAME_ONE = "Rename or remove one of them"


def files_of(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of a folder with one of some suffixes, by name, without macOS's `._` files.

    Args:
        folder: to look in.
        suffixes: in lower case.

    Raises:
        ExportError: when one is not a regular file.
    """
    wanted = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return _regular(path for path in sorted(wanted) if not path.name.startswith("._"))


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, by name.

    Raises:
        ExportError: when two differ only in their suffix: labels are matched by the stem.
    """
    return list(files_by_stem(folder, IMAGE_SUFFIXES).values())


def files_by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """The files of a folder with one of some suffixes, by their stems.

    Raises:
        ExportError: when two have one stem, which an image and its labels are matched by.
    """
    found: dict[str, Path] = {}
    for path in files_of(folder, suffixes):
        twin = found.setdefault(path.stem, path)
        if twin is not path:
            raise ExportError(
                f"{twin.name} and {path.name} differ only in their suffix",
                file=folder,
                fix=RENAME_ONE,
            )
    return found


def file_named(folder: Path, name: str) -> Path | None:
    """The file of a folder that has a name in any letter case; None where it has none.

    Raises:
        ExportError: when several have it, or it is not a regular file.
    """
    found = sorted(p for p in folder.iterdir() if p.name.casefold() == name.casefold())
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise ExportError(f"{names} differ only in letter case", file=folder, fix=RENAME_ONE)
    return next(iter(_regular(found)), None)


def is_folder(path: Path) -> bool:
    """Whether a path leads to a folder; one that is too long for a path does not."""
    try:
        return path.is_dir()
    except OSError:
        return False


def other_jsons(folder: Path) -> list[Path]:
    """The JSON files of a folder, without those named as Roboflow names a split's annotations."""
    paths = files_of(folder, {".json"})
    return [path for path in paths if not path.name.casefold().startswith("_anno")]


def mentions(path: Path, *words: bytes) -> bool:
    """Whether a file contains one of some words, without reading it into memory."""
    overlap = max(map(len, words)) - 1
    with path.open("rb") as file:
        tail = b""
        while block := file.read(2**20):
            text = tail + block
            if any(word in text for word in words):
                return True
            tail = text[-overlap:]
    return False


def _regular(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        if path.is_dir():
            continue
        if problem := file_problem(path):
            raise ExportError(f"cannot be read: {problem}", file=path, fix=NOT_AN_EXPORT)
        found.append(path)
    return found
