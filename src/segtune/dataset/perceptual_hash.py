"""Which images show the same, by their thumbnails: also recompressed, resized, brighter, rotated.

The hash of a thumbnail is its 20 lowest frequencies (of the discrete cosine transform, without
the mean), scaled to length 1: the coarse structure, in which copies differ little, and which
brightness and contrast do not change. Candidates are at most 16 neighbors of each image in the
space of hashes, found in a k-d tree, so that work grows little faster than the number of images,
however similar they are. What decides is the pixels of the candidates: the correlation of the
remaining frequencies, the fine structure, which is unrelated in different images with the same
layout.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn
from scipy.spatial import cKDTree

from segtune.dataset.image_scan import THUMBNAIL_SIDE

Thumbnails = npt.NDArray[np.uint8]  # (N, 32, 32)
Structure = npt.NDArray[np.float32]  # (N, frequencies)

COARSE_ORDER = 6  # the sum of both frequencies is below it
MIN_CANDIDATE = 0.9  # correlation of the coarse structure
MAX_CANDIDATES = 16  # of one image in each orientation
AT_ONCE = 256  # images; with 16 candidates each, their frequencies take 32 MB
# Of the fine structure, in gray levels. Rounding the thumbnail to 8 bits adds 0.3, with which
# two copies of an image at this limit have a correlation of 0.96.
MIN_DETAIL = 1.5
MIN_COARSE = 0.5  # gray levels
TONES = 17  # points of the curve from the brightness of one image to another's
# What was done to an image; see `oriented`.
ORIENTATIONS = (
    *("", "mirrored", "rotated", "mirrored and rotated"),
    *("rotated", "mirrored", "rotated", "mirrored and rotated"),
)
_ORDER = np.add.outer(np.arange(THUMBNAIL_SIDE), np.arange(THUMBNAIL_SIDE)).ravel()
_COARSE = np.flatnonzero((_ORDER > 0) & (_ORDER < COARSE_ORDER))
_FINE = np.flatnonzero(_ORDER >= COARSE_ORDER)


class Match(NamedTuple):
    """A pair of images, by their places among queries and others."""

    query: int
    other: int
    orientation: int  # of the query, in which it is the other one
    similarity: float  # the lower one of the correlations of coarse and of fine structure


def is_comparable(thumbnails: Thumbnails) -> npt.NDArray[np.bool_]:
    """(N,) whether there is enough to be seen in each thumbnail to compare it."""
    comparable = np.zeros(len(thumbnails), np.bool_)
    for part in _parts(len(thumbnails)):
        frequencies = _frequencies(thumbnails[part])
        coarse, fine = (
            np.linalg.norm(frequencies[:, chosen], axis=1) / THUMBNAIL_SIDE
            for chosen in (_COARSE, _FINE)
        )
        comparable[part] = (coarse >= MIN_COARSE) & (fine >= MIN_DETAIL)
    return comparable


def oriented(thumbnails: Thumbnails, orientation: int) -> Thumbnails:
    """Each thumbnail rotated by a multiple of 90 degrees and, if that is odd, mirrored."""
    rotated = np.rot90(thumbnails, orientation // 2, axes=(1, 2))
    return rotated[:, :, ::-1] if orientation % 2 else rotated


def similar_pairs(
    queries: Thumbnails, others: Thumbnails, *, min_similarity: float
) -> Iterator[Match | int]:
    """Pairs that show the same in any of the eight orientations.

    Args:
        queries: comparable thumbnails.
        others: comparable thumbnails.
        min_similarity: of a pair.

    Yields:
        Pairs, in any order and perhaps in several orientations; and, as an integer, a query with
        more candidates than are compared.
    """
    if not len(others):
        return
    other_coarse, other_fine = _structure_of_many(others)
    tree = cKDTree(other_coarse)
    # Of two vectors of length 1, the distance follows from the correlation.
    radius = np.sqrt(2 - 2 * MIN_CANDIDATE)
    for orientation, part in product(range(len(ORIENTATIONS)), _parts(len(queries))):
        coarse, fine = _structure(oriented(queries[part], orientation))
        distances, found = tree.query(coarse, k=MAX_CANDIDATES, distance_upper_bound=radius)
        is_candidate = np.isfinite(distances)
        yield from (int(row) + part.start for row in np.flatnonzero(is_candidate[:, -1]))
        rows, columns = np.nonzero(is_candidate)
        candidates = found[rows, columns]
        similarity = np.minimum(
            1 - distances[rows, columns] ** 2 / 2,
            np.einsum("nf,nf->n", fine[rows], other_fine[candidates], dtype=np.float32),
        )
        for n in np.flatnonzero(similarity >= min_similarity):
            yield Match(
                query=int(rows[n]) + part.start,
                other=int(candidates[n]),
                orientation=orientation,
                similarity=float(similarity[n]),
            )


def largest_difference(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """By how much a pixel differs at most, once the tones of one thumbnail are the other's.

    In a copy, brightness changes by one curve for all pixels; in the next frame of a video, or
    in another image of a fixed camera, something has moved.

    Args:
        one: (32, 32) thumbnail.
        other: (32, 32) thumbnail.

    Returns:
        The difference in standard deviations of the thumbnail's brightness. Where one of them is
        overexposed, only the other has all tones, so it is the smaller one of both directions.
    """
    return min(_difference_with_tones_of(one, other), _difference_with_tones_of(other, one))


def _difference_with_tones_of(
    target: npt.NDArray[np.uint8], changed: npt.NDArray[np.uint8]
) -> float:
    places = np.linspace(0, target.size - 1, TONES).astype(int)
    # The curve needs tones that rise, also where many pixels have one.
    rising = np.sort(changed, axis=None)[places] + np.arange(TONES) * 1e-6
    matched = np.interp(changed, rising, np.sort(target, axis=None)[places])
    return float(np.abs(matched - target).max() / target.std())


def _parts(count: int) -> list[slice]:
    return [slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE)]


def _frequencies(thumbnails: Thumbnails) -> Structure:
    """(N, 1024) coefficients of the discrete cosine transform."""
    coefficients = dctn(thumbnails.astype(np.float32), axes=(1, 2), norm="ortho")
    frequencies: Structure = coefficients.reshape(len(thumbnails), -1)
    return frequencies


def _structure(thumbnails: Thumbnails) -> tuple[Structure, Structure]:
    """The coarse and the fine structure of thumbnails, each of length 1."""
    frequencies = _frequencies(thumbnails)
    return _of_length_1(frequencies[:, _COARSE]), _of_length_1(frequencies[:, _FINE])


def _structure_of_many(thumbnails: Thumbnails) -> tuple[Structure, npt.NDArray[np.float16]]:
    """The same, with the fine structure in 16 bits: correlations differ by less than 0.001."""
    coarse = np.empty((len(thumbnails), len(_COARSE)), np.float32)
    fine = np.empty((len(thumbnails), len(_FINE)), np.float16)
    for part in _parts(len(thumbnails)):
        coarse[part], fine[part] = _structure(thumbnails[part])
    return coarse, fine


def _of_length_1(vectors: Structure) -> Structure:
    scaled: Structure = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
