"""Whether two similar images show one scene, by how many places in them agree.

Augmentation can change an image so much that the correlation of the whole says little: Roboflow
shifts it, and mirrors or shears what is in the boxes. The places between the boxes remain.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from segtune.dataset.images import upright_rgb
from segtune.dataset.perceptual_hash import oriented

SIDE = 64  # pixels of the thumbnails that are compared
REACH = 4  # pixels of the largest shift, horizontally and vertically
BLOCK = 8  # pixels of the side of a place
MIN_STRUCTURE = 2.0  # gray levels, the standard deviation of a place
MIN_PLACES = 8  # with structure; fewer prove nothing
MIN_CORRELATION = 0.9  # of a place

Gray = npt.NDArray[np.float64]


def agreement(one: Path, other: Path, orientation: int) -> float:
    """The fraction of places that agree, of those with structure in either image.

    Args:
        one: an image file.
        other: an image file.
        orientation: of the first, in which it is the other one; see `oriented`.

    Raises:
        DatasetError: when a file cannot be read.
    """
    (turned,) = oriented(_thumbnail(one)[None], orientation)
    return _agreement(turned.astype(float), _thumbnail(other).astype(float))


def _thumbnail(path: Path) -> npt.NDArray[np.uint8]:
    """(64, 64) gray pixels, stretched."""
    gray = upright_rgb(path, draft_side=2 * SIDE).convert("L")
    return np.asarray(gray.resize((SIDE, SIDE), PilImage.Resampling.BILINEAR))


def _agreement(one: Gray, other: Gray) -> float:
    y, x = _shift(one, other)
    first = _places(one[REACH - y : SIDE - REACH - y, REACH - x : SIDE - REACH - x])
    second = _places(other[REACH : SIDE - REACH, REACH : SIDE - REACH])
    deviations = first.std(1), second.std(1)
    has_structure = np.maximum(*deviations) > MIN_STRUCTURE
    if has_structure.sum() < MIN_PLACES:
        return 0.0
    correlations = (first * second).mean(1) / np.maximum(deviations[0] * deviations[1], 1e-6)
    return float((correlations[has_structure] > MIN_CORRELATION).mean())


def _shift(one: Gray, other: Gray) -> tuple[int, int]:
    """Down and to the right, in pixels, by which the first image is most similar to the other."""
    spectra = [np.fft.rfft2(image - image.mean()) for image in (one, other)]
    similar = np.fft.irfft2(spectra[1] * spectra[0].conj(), one.shape)
    shifts = np.arange(-REACH, REACH + 1)
    row, column = divmod(int(similar[np.ix_(shifts, shifts)].argmax()), len(shifts))
    return int(shifts[row]), int(shifts[column])


def _places(image: Gray) -> Gray:
    """(places, pixels) squares of an image, each without its mean."""
    count = image.shape[0] // BLOCK
    blocks = image.reshape(count, BLOCK, count, BLOCK).swapaxes(1, 2).reshape(-1, BLOCK**2)
    centered: Gray = blocks - blocks.mean(1, keepdims=True)
    return centered
