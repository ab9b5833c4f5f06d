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
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn
from scipy.spatial import cKDTree

from segtune.checks.image_scan import THUMBNAIL_SIDE

Thumbnails = npt.NDArray[np.uint8]  # (N, 32, 32)
Structure = npt.NDArray[np.float32]  # (N, frequencies)

COARSE_ORDER = 6  # the sum of both frequencies is below it
MIN_CANDIDATE = 0.9  # correlation of the coarse structure
MAX_CANDIDATES = 16  # of one image in each orientation
AT_ONCE = 256  # images; with 16 candidates each, their frequencies take 16 MB
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
_ORDER = np.add.outer(np.arange(THUMBNAIL_SIDE), np.arange(THUMBNAIL_SIDE))
_COARSE = (_ORDER > 0) & (_ORDER < COARSE_ORDER)
_FINE = _ORDER >= COARSE_ORDER


class Match(NamedTuple):
    """A pair of images, by their places among queries and others."""

    query: int
    other: int
    orientation: int  # of the query, in which it is the other one
    similarity: float  # the lower one of the correlations of coarse and of fine structure


def is_comparable(thumbnails: Thumbnails) -> npt.NDArray[np.bool_]:
    """(N,) whether there is enough to be seen in each thumbnail to compare it."""
    frequencies = _frequencies(thumbnails)
    coarse, fine = (
        np.linalg.norm(frequencies[:, part], axis=1) / THUMBNAIL_SIDE for part in (_COARSE, _FINE)
    )
    comparable: npt.NDArray[np.bool_] = (coarse >= MIN_COARSE) & (fine >= MIN_DETAIL)
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
    tree = cKDTree(_coarse(_frequencies(others)))
    # Of two vectors of length 1, the distance follows from the correlation.
    radius = np.sqrt(2 - 2 * MIN_CANDIDATE)
    for orientation in range(len(ORIENTATIONS)):
        for start in range(0, len(queries), AT_ONCE):
            part = _frequencies(oriented(queries[start : start + AT_ONCE], orientation))
            distances, found = tree.query(
                _coarse(part), k=MAX_CANDIDATES, distance_upper_bound=radius
            )
            yield from (int(n) + start for n in np.flatnonzero(np.isfinite(distances[:, -1])))
            rows, columns = np.nonzero(np.isfinite(distances))
            candidates = found[rows, columns]
            coarse = 1 - distances[rows, columns] ** 2 / 2
            fine = np.sum(_fine(part)[rows] * _fine(_frequencies(others[candidates])), axis=1)
            similarity = np.minimum(coarse, fine)
            for n in np.flatnonzero(similarity >= min_similarity):
                yield Match(
                    query=int(rows[n]) + start,
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
    levels = np.linspace(0, 1, TONES)
    # The curve needs tones that rise, also where many pixels have one.
    rising = np.quantile(changed, levels) + np.arange(TONES) * 1e-6
    matched = np.interp(changed, rising, np.quantile(target, levels))
    return float(np.abs(matched - target).max() / target.std())


def _frequencies(thumbnails: Thumbnails) -> Structure:
    """(N, 32, 32) coefficients of the discrete cosine transform."""
    frequencies: Structure = dctn(thumbnails.astype(np.float32), axes=(1, 2), norm="ortho")
    return frequencies


def _coarse(frequencies: Structure) -> Structure:
    return _of_length_1(frequencies[:, _COARSE])


def _fine(frequencies: Structure) -> Structure:
    return _of_length_1(frequencies[:, _FINE])


def _of_length_1(vectors: Structure) -> Structure:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Structure = vectors / lengths
    return scaled
