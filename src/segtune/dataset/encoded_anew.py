"""Images that two datasets have in different encodings.

A service that exports a dataset again gives its images other names and other bytes.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from segtune.core.console import progress
from segtune.core.cores import usable_cores
from segtune.core.errors import DatasetError
from segtune.core.fingerprints import file_digest
from segtune.dataset.coco import Image
from segtune.dataset.image_pairs import Dataset, original_name
from segtune.dataset.images import upright_rgb

BLOCK = 8  # pixels: side of the squares whose mean colors are compared
# Of a mean color, in gray levels of one channel. Between an image and a JPEG of quality 60: 8 at
# most in three datasets. Between different images of these: 51 at least (docs/benchmarks.md).
MAX_DIFFERENCE = 16
MAX_ALIKE = 20  # images of one name and size; more of them are not compared with each other

Key = tuple[str, int, int]  # name of the original without folders, width, height
Colors = npt.NDArray[np.int16]  # (height / 8, width / 8, 3) mean colors


@dataclass(frozen=True)
class _File:
    """An image whose content only one of the two datasets has."""

    name: str
    path: Path
    sha256: str  # at the time of conversion


def recognized(dataset: Dataset, known: Dataset) -> Dataset:
    """A dataset in which images that another one has in another encoding count as the same.

    They have the same name of the original and the same size in pixels, and nowhere another color.

    Args:
        dataset: the one that is compared.
        known: the other one. Of both, images are read if name and size agree but not the bytes;
            those that cannot be read, or have changed since they were converted, are not
            recognized.
    """
    own, others = _by_key(dataset, than=known), _by_key(known, than=dataset)
    pairs = [(own[key], others[key]) for key in own if key in others]
    pairs = [both for both in pairs if max(map(len, both)) <= MAX_ALIKE]
    if not pairs:
        return dataset
    images, found = known.images, dict(dataset.recognized)
    with (
        progress("compared image", sum(len(mine) for mine, _ in pairs)) as advance,
        ThreadPoolExecutor(usable_cores()) as pool,
    ):
        for (mine, _), same in zip(pairs, pool.map(_same, pairs), strict=True):
            found |= {name: known.identity(images[other]) for name, other in same.items()}
            advance(len(mine))
    return replace(dataset, recognized=found)


def mean_colors(image: PilImage.Image) -> Colors:
    """The mean colors of the blocks of an image in RGB."""
    return np.asarray(image.reduce(BLOCK), np.int16)


def difference(one: Colors, other: Colors) -> int:
    """By how much the mean colors of two images of one size differ at most, in gray levels."""
    return int(np.abs(one - other).max())


def _by_key(dataset: Dataset, *, than: Dataset) -> Mapping[Key, list[_File]]:
    theirs = {than.identity(image) for image in than.images.values()}
    found: dict[Key, list[_File]] = defaultdict(list)
    (split, *_) = dataset.splits.values()
    for name, image in dataset.images.items():
        if dataset.identity(image) not in theirs:
            file = _File(name, split.image_path(image), dataset.digests[name])
            found[_key(image)].append(file)
    return found


def _key(image: Image) -> Key:
    name = PurePath(original_name(image))
    # Roboflow calls the copies of a.jpg a_jpg.rf.0123abcd.jpg.
    stem = name.stem.removesuffix(f"_{name.suffix[1:]}")
    return stem + name.suffix, image.width, image.height


def _same(files: tuple[Sequence[_File], Sequence[_File]]) -> dict[str, str]:
    """Names of the first files whose image is one of the second ones, with the name of that one."""
    mine, theirs = (list(_with_colors(side)) for side in files)
    found: dict[str, str] = {}
    for one, colors in mine:
        apart = [(difference(colors, other), n) for n, (_, other) in enumerate(theirs)]
        least, place = min(apart, default=(MAX_DIFFERENCE + 1, 0))
        if least <= MAX_DIFFERENCE:
            other_file, _ = theirs.pop(place)
            found[one.name] = other_file.name
    return found


def _with_colors(files: Sequence[_File]) -> Iterator[tuple[_File, Colors]]:
    """The files that can be read and are those that were converted."""
    for file in files:
        try:
            if file.sha256.startswith(file_digest(file.path, DatasetError, "")):
                yield file, mean_colors(upright_rgb(file.path))
        except DatasetError:
            continue
