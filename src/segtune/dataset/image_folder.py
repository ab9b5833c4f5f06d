"""Any folder of images as a split without ground truth."""

from collections.abc import Sequence
from pathlib import Path

from segtune.core.errors import DatasetError
from segtune.dataset.coco import Category, Image, Split
from segtune.dataset.image_names import image_names, sort_key
from segtune.dataset.images import opened_image, upright_size


def split_of_folder(
    folder: Path,
    categories: Sequence[Category],
    *,
    setting: str,
    names: Sequence[str] | None = None,
) -> Split:
    """The images below a folder as a split without ground truth.

    Args:
        folder: is searched with its subfolders.
        categories: what is to be prompted.
        setting: that names the folder, for messages.
        names: of the images, relative to the folder; by default, all are found and sorted.

    Raises:
        DatasetError: when there are no images, or one cannot be read.
    """
    if names is None:
        names = sorted(image_names(folder, setting=setting), key=sort_key)
        if not names:
            raise DatasetError("no images in this folder", file=folder, fix=f"Check {setting}")
    images = tuple(_image(number, name, folder) for number, name in enumerate(names, start=1))
    return Split(
        name=folder.name,
        root=folder,
        categories=tuple(categories),
        images=images,
        annotations={image.id: () for image in images},
    )


def _image(number: int, name: str, folder: Path) -> Image:
    with opened_image(folder / name) as image:
        width, height = upright_size(image)
    return Image(id=number, file_name=name, width=width, height=height)
