"""The connected components of a semantic mask, in time and memory that its values do not multiply.

A component is a set of pixels of one value that touch at a side or a corner. Instead of pixels,
runs are connected: the lengths of one value in a column, of which RLEs consist anyway.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from segtune.dataset.masks import Rle, segmentation_to_rle

BAND = 2**22  # pixels that are looked at together
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Runs:
    """Runs of one value in a column, sorted by column and row; each (n,)."""

    value: Integers
    column: Integers
    top: Integers  # first row
    bottom: Integers  # the row after the last


def connected_components(
    pixels: npt.NDArray[Any], values: Sequence[int], *, max_components: int, max_runs: int
) -> Iterator[tuple[int, int, Rle]]:
    """The components of some values of a mask.

    Args:
        pixels: (height, width) of integers or booleans.
        values: those whose components are wanted, in order.
        max_components: of all values together.
        max_runs: of all values together.

    Returns:
        The value, the number within the value from 1 on, and the RLE of each component; by value
        and then in the order of their first pixels, row by row.

    Raises:
        ValueError: when there are more components or runs, at once and not when iterated.
    """
    runs = _runs(pixels, values, max_runs)
    count, labels = _labels(runs, len(pixels))
    if count > max_components:
        raise ValueError(f"more than {max_components} connected components")
    return _ordered(runs, labels, count, pixels.shape)


def _runs(pixels: npt.NDArray[Any], values: Sequence[int], max_runs: int) -> _Runs:
    wanted, parts, total = np.array(values, np.int64), [], 0
    columns = max(1, BAND // len(pixels))
    for start in range(0, pixels.shape[1], columns):
        found = _runs_of_band(pixels[:, start : start + columns].T, wanted, start)
        parts.append(found)
        total += found.shape[1]
        if total > max_runs:
            raise ValueError(f"more than {max_runs} runs of pixels")
    return _Runs(*np.concatenate(parts, axis=1))


def _runs_of_band(band: npt.NDArray[Any], wanted: Integers, first_column: int) -> Integers:
    """(4, n): value, column, top and bottom of each run; the band is (columns, height)."""
    starts_here = np.ones(band.shape, bool)
    np.not_equal(band[:, 1:], band[:, :-1], out=starts_here[:, 1:])
    starts = np.flatnonzero(starts_here)
    ends = np.append(starts[1:], band.size)
    columns, tops = np.divmod(starts, band.shape[1])
    values = band[columns, tops].astype(np.int64)
    runs = np.stack([values, columns + first_column, tops, tops + ends - starts])
    return runs[:, np.isin(values, wanted)]


def _labels(runs: _Runs, height: int) -> tuple[int, npt.NDArray[np.int32]]:
    """How many components there are, and which one each run belongs to."""
    _, value = np.unique(runs.value, return_inverse=True)
    # Rows of all columns of all values one below the other, with a gap that nothing touches.
    width = int(runs.column.max(initial=0)) + 2
    offset = (value * width + runs.column) * (height + 2)
    order = np.argsort(offset + runs.top)
    tops, bottoms = (offset + runs.top)[order], (offset + runs.bottom)[order]
    # In the next column, runs that end above this one or begin below it do not touch it.
    first = np.searchsorted(bottoms, tops + height + 2, "left")
    last = np.searchsorted(tops, bottoms + height + 2, "right")
    counts = np.maximum(last - first, 0)
    one = np.repeat(np.arange(len(tops)), counts)
    other = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first, counts)
    graph = sparse.coo_matrix((np.ones(len(one), bool), (one, other)), (len(tops), len(tops)))
    count, sorted_labels = csgraph.connected_components(graph, directed=False)
    labels = np.empty(len(tops), np.int32)
    labels[order] = sorted_labels
    return int(count), labels


def _ordered(
    runs: _Runs, labels: npt.NDArray[np.int32], count: int, shape: tuple[int, ...]
) -> Iterator[tuple[int, int, Rle]]:
    height, width = shape
    order = np.argsort(labels, kind="stable")
    # Of component k, the runs lie at places[k] to places[k + 1] of the order.
    places = np.searchsorted(labels[order], np.arange(count + 1))
    values = runs.value[order[places[:-1]]]
    first_pixels = np.full(count, height * width)
    np.minimum.at(first_pixels, labels, runs.top * width + runs.column)
    number, previous = 0, None
    for k in np.lexsort([first_pixels, values]):
        number = number + 1 if values[k] == previous else 1
        previous = values[k]
        own = order[places[k] : places[k + 1]]
        starts = runs.column[own] * height + runs.top[own]
        yield int(previous), number, _rle(starts, starts + runs.bottom[own] - runs.top[own], shape)


def _rle(starts: Integers, ends: Integers, shape: tuple[int, ...]) -> Rle:
    height, width = shape
    # A run at the bottom of a column continues at the top of the next.
    continues = starts[1:] == ends[:-1]
    edges = np.stack([starts[np.append(True, ~continues)], ends[np.append(~continues, True)]], 1)
    counts = np.diff(edges.ravel(), prepend=0, append=height * width)
    if counts[-1] == 0:
        counts = counts[:-1]
    return segmentation_to_rle({"size": [height, width], "counts": counts.tolist()}, height, width)
