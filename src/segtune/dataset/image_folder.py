"""Any folder of images as a split without ground truth."""

from collections.abc import Sequence
from pathlib import Path

from segtune.core.errors import DatasetError
from segtune.core.foreign import reason
from segtune.dataset.coco import Category, Image, Split
from segtune.dataset.images import is_image_name, opened_image, upright_size


def split_of_folder(folder: Path, categories: Sequence[Category], *, setting: str) -> Split:
    """The images below a folder as a split without ground truth.

    Args:
        folder: is searched with its subfolders.
        categories: what is to be prompted.
        setting: that names the folder, for messages.

    Raises:
        DatasetError: when there are no images, or one cannot be read.
    """
    fix = f"Check {setting}"
    try:
        paths = sorted(path for path in folder.rglob("*") if is_image_name(path))
    except OSError as error:
        problem = f"cannot read the folder ({reason(error)})"
        raise DatasetError(problem, file=folder, fix=fix) from None
    if not paths:
        raise DatasetError("no images in this folder", file=folder, fix=fix)
    images = tuple(_image(number, path, folder) for number, path in enumerate(paths, start=1))
    return Split(
        name=folder.name,
        root=folder,
        categories=tuple(categories),
        images=images,
        annotations={image.id: () for image in images},
    )


def _image(number: int, path: Path, folder: Path) -> Image:
    with opened_image(path) as image:
        width, height = upright_size(image)
    file_name = path.relative_to(folder).as_posix()
    return Image(id=number, file_name=file_name, width=width, height=height)
