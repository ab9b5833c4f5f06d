"""Searching splits for images that show the same: by their bytes, then by their thumbnails."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from segtune.dataset.image_scan import THUMBNAIL_SIDE, ImageScan
from segtune.dataset.perceptual_hash import (
    ORIENTATIONS,
    Match,
    Thumbnails,
    is_comparable,
    largest_difference,
    oriented,
    similar_pairs,
)

# Of a copy, unless the settings of validation have another limit; conversion has only this one.
MIN_SIMILARITY = 0.93
MAX_DIFFERENCE = 0.9  # standard deviations, by which one pixel of a copy's thumbnail may differ
IDENTICAL = "identical bytes"

K = TypeVar("K")
Kind = Literal["identical", "near", "likely", "possible"]


@dataclass(frozen=True, slots=True)
class Copy:
    """An image, and one of an earlier split or earlier in its own that shows the same."""

    image: ImageScan
    other: ImageScan
    kind: Kind
    evidence: str  # for people
    orientation: int = 0  # of the image, in which it is the other one


@dataclass(frozen=True)
class ComparedSplit:
    """The images of a split, and the thumbnails of those that can be compared."""

    name: str
    scans: tuple[ImageScan, ...]
    by_sha256: Mapping[str, ImageScan]  # the first with each content
    plain: tuple[ImageScan, ...]  # cannot be compared
    compared: tuple[ImageScan, ...]
    thumbnails: Thumbnails  # of `compared`
    within: tuple[Match, ...]  # pairs of `compared`, the query being the later one


def compared_splits(scans: Sequence[ImageScan], min_similarity: float) -> list[ComparedSplit]:
    """The splits in their order, each compared with itself.

    Args:
        scans: of the images of all splits, split by split, beginning with train.
        min_similarity: of the pairs within a split.
    """
    evaluated: set[str] = set()
    splits: list[ComparedSplit] = []
    for name, members in groupby(scans, attrgetter("split")):
        # Where there is no test split, the files of valid may be meant to be in both.
        own = [scan for scan in members if scan.sha256 and scan.file_name not in evaluated]
        if splits:
            evaluated.update(scan.file_name for scan in own)
        splits.append(_compared(name, own, min_similarity))
    return splits


def _compared(name: str, scans: Sequence[ImageScan], min_similarity: float) -> ComparedSplit:
    visible = [scan for scan in scans if scan.thumbnail]
    thumbnails = thumbnails_of(visible)
    usable = is_comparable(thumbnails)
    thumbnails = thumbnails[usable]
    best: dict[tuple[int, int], Match] = {}
    for match in similar_pairs(thumbnails, thumbnails, min_similarity=min_similarity):
        if not isinstance(match, int) and match.query > match.other:
            _keep_best(best, (match.query, match.other), match)
    return ComparedSplit(
        name=name,
        scans=tuple(scans),
        by_sha256={scan.sha256: scan for scan in reversed(scans)},
        plain=tuple(visible[n] for n in np.flatnonzero(~usable)),
        compared=tuple(visible[n] for n in np.flatnonzero(usable)),
        thumbnails=thumbnails,
        within=tuple(best.values()),
    )


def thumbnails_of(scans: Sequence[ImageScan]) -> Thumbnails:
    """(N, 32, 32) the thumbnails of images that have one."""
    content = b"".join(scan.thumbnail for scan in scans if scan.thumbnail)
    return np.frombuffer(content, np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)


def copies_across(
    later: ComparedSplit,
    earlier: ComparedSplit,
    *,
    min_near: float,
    min_likely: float,
    min_possible: float,
) -> tuple[list[Copy], list[ImageScan]]:
    """Images of a split that are in an earlier one, too.

    Args:
        later: the split.
        earlier: the split that comes first.
        min_near: the similarity from which a pair is an image and its copy.
        min_likely: that from which it is worth looking at.
        min_possible: that from which it is found at all.

    Returns:
        Each image with the most similar one, identical ones first; and those that have more
        similar images than are compared.
    """
    copies = {
        scan.file_name: Copy(scan, other, "identical", IDENTICAL)
        for scan in later.scans
        if (other := earlier.by_sha256.get(scan.sha256))
    }
    best: dict[int, Match] = {}
    crowded: set[int] = set()
    for match in similar_pairs(later.thumbnails, earlier.thumbnails, min_similarity=min_possible):
        if isinstance(match, int):
            crowded.add(match)
        else:
            _keep_best(best, match.query, match)
    for _, match in sorted(best.items()):
        copy = _copy(match, later, earlier, min_near=min_near, min_likely=min_likely)
        copies.setdefault(copy.image.file_name, copy)
    return list(copies.values()), [later.compared[n] for n in sorted(crowded)]


def copies_within(split: ComparedSplit, min_near: float) -> Iterator[Copy]:
    """Images of a split that are copies of earlier ones in it, each with the most similar one."""
    found: set[str] = set()
    for scan in split.scans:
        if (first := split.by_sha256[scan.sha256]) is not scan:
            found.add(scan.file_name)
            yield Copy(scan, first, "identical", IDENTICAL)
    best: dict[int, Match] = {}
    for match in split.within:
        _keep_best(best, match.query, match)
    for _, match in sorted(best.items()):
        copy = _copy(match, split, split, min_near=min_near, min_likely=min_near)
        if copy.kind == "near" and copy.image.file_name not in found:
            yield copy


def differences(split: ComparedSplit) -> sparse.csr_array:
    """(N, N) by how much the images of a split differ, of the pairs that are in `within`.

    Returns:
        1 - similarity, but at least 0.001, and 0.001 for identical bytes; else nothing.
    """
    places = {scan.file_name: place for place, scan in enumerate(split.scans)}
    found = {
        (places[scan.file_name], places[split.by_sha256[scan.sha256].file_name]): 1.0
        for scan in split.scans
    }
    for match in split.within:
        pair = split.compared[match.query], split.compared[match.other]
        found[places[pair[0].file_name], places[pair[1].file_name]] = match.similarity
    values = np.maximum(0.001, 1 - np.fromiter(found.values(), float))
    rows, columns = np.array(list(found), int).reshape(-1, 2).T
    size = (len(split.scans), len(split.scans))
    return sparse.coo_array((values, (rows, columns)), size).tocsr()


def connected(pairs: Sequence[tuple[int, int]], count: int) -> Iterator[list[int]]:
    """Groups of at least two of the numbers below `count` that pairs connect, in order."""
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    ones = np.ones(len(pairs), np.bool_)
    graph = sparse.coo_matrix((ones, (rows, columns)), shape=(count, count))
    _, labels = csgraph.connected_components(graph, directed=False)
    groups: dict[int, list[int]] = {}
    for number, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(number)
    return (members for members in groups.values() if len(members) > 1)


def _keep_best(best: dict[K, Match], key: K, match: Match) -> None:
    known = best.get(key)
    if known is None or match.similarity > known.similarity:
        best[key] = match


def _copy(
    match: Match,
    later: ComparedSplit,
    earlier: ComparedSplit,
    *,
    min_near: float,
    min_likely: float,
) -> Copy:
    one, other = later.thumbnails[match.query], earlier.thumbnails[match.other]
    kind: Kind = "likely" if match.similarity >= min_likely else "possible"
    if match.similarity >= min_near and _shows_the_same(one, other, match.orientation):
        kind = "near"
    done = ORIENTATIONS[match.orientation]
    return Copy(
        image=later.compared[match.query],
        other=earlier.compared[match.other],
        kind=kind,
        evidence=f"{f'{done}, ' if done else ''}correlation {match.similarity:.2f}",
        orientation=match.orientation,
    )


def _shows_the_same(
    one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8], orientation: int
) -> bool:
    (turned,) = oriented(one[None], orientation)
    return largest_difference(turned, other) <= MAX_DIFFERENCE
