"""Images that are in more than one split, by evidence.

A model that is tested on images that it was trained on gets scores that mean nothing. Identical
bytes are proof; so is the structure of the pixels, down to a threshold that no pair of different
images has come near. Below it, the pair is only likely; and a common name is only a hint.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from segtune.checks.image_scan import THUMBNAIL_SIDE, ImageScan
from segtune.checks.perceptual_hash import (
    MAX_CANDIDATES,
    ORIENTATIONS,
    Match,
    Thumbnails,
    is_comparable,
    largest_difference,
    oriented,
    similar_pairs,
)
from segtune.core.validate_settings import ValidateLimits
from segtune.dataset.findings import Found, Place

MAX_DIFFERENCE = 0.9  # standard deviations, by which one pixel of a copy's thumbnail may differ


@dataclass(frozen=True)
class _Group:
    """The images of a split, and the thumbnails of those that can be compared."""

    name: str
    scans: tuple[ImageScan, ...]
    by_sha256: Mapping[str, ImageScan]  # the first with each content
    plain: tuple[ImageScan, ...]  # cannot be compared
    compared: tuple[ImageScan, ...]
    thumbnails: Thumbnails  # of `compared`


def copy_findings(scans: Sequence[ImageScan], limits: ValidateLimits) -> Iterator[Found]:
    """Copies among the images of all splits.

    Of each image of a split, at most one is named from each earlier split: the most similar one.

    Args:
        scans: of the images of all splits, split by split, beginning with train.
        limits: the similarity from which a pair is an image and its copy, and that from which it
            is worth looking at.
    """
    min_near, min_likely = limits.copy_similarity, limits.likely_copy_similarity
    groups = _groups(scans)
    for group in groups:
        for scan in group.plain:
            text = "too plain for any comparison but of its bytes"
            yield "copy-unchecked", _place(scan, text)
    for number, later in enumerate(groups):
        for earlier in groups[:number]:
            yield from _across(later, earlier, min_near, min_likely)
    for group in groups:
        yield from _within(group, min_near)


def _groups(scans: Sequence[ImageScan]) -> list[_Group]:
    """The splits in their order."""
    evaluated: set[str] = set()
    groups: list[_Group] = []
    for name, members in groupby(scans, attrgetter("split")):
        # Where there is no test split, the files of valid may be meant to be in both.
        own = [scan for scan in members if scan.sha256 and scan.file_name not in evaluated]
        if groups:
            evaluated.update(scan.file_name for scan in own)
        visible = [scan for scan in own if scan.thumbnail]
        thumbnails = thumbnails_of(visible)
        usable = is_comparable(thumbnails)
        groups.append(
            _Group(
                name=name,
                scans=tuple(own),
                by_sha256={scan.sha256: scan for scan in reversed(own)},
                plain=tuple(visible[n] for n in np.flatnonzero(~usable)),
                compared=tuple(visible[n] for n in np.flatnonzero(usable)),
                thumbnails=thumbnails[usable],
            )
        )
    return groups


def thumbnails_of(scans: Sequence[ImageScan]) -> Thumbnails:
    """(N, 32, 32) thumbnails of images that could be decoded."""
    content = b"".join(scan.thumbnail or b"" for scan in scans)
    return np.frombuffer(content, np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)


def _across(later: _Group, earlier: _Group, min_near: float, min_likely: float) -> Iterator[Found]:
    """Images of a split that are in an earlier one, too."""
    found: set[str] = set()
    for scan in later.scans:
        if other := earlier.by_sha256.get(scan.sha256):
            found.add(scan.file_name)
            yield "copy-identical", _pair(scan, other, "identical bytes")
    matches, crowded = _best_matches(later.thumbnails, earlier.thumbnails, min_likely)
    for query, match in sorted(matches.items()):
        scan, other = later.compared[query], earlier.compared[match.other]
        if scan.file_name not in found:
            found.add(scan.file_name)
            is_copy = _is_copy(match, later.thumbnails[query], earlier.thumbnails, min_near)
            yield "copy-near" if is_copy else "copy-likely", _pair(scan, other, _evidence(match))
    for query in sorted(crowded):
        if (scan := later.compared[query]).file_name not in found:
            text = f"more than {MAX_CANDIDATES} similar images in {earlier.name}, of which"
            yield "copy-unchecked", _place(scan, f"{text} only the most similar are compared")
    yield from _hints(later, earlier, found)


def _within(group: _Group, min_near: float) -> Iterator[Found]:
    """Copies of images of the same split."""
    found: set[str] = set()
    for scan in group.scans:
        if (first := group.by_sha256[scan.sha256]) is not scan:
            found.add(scan.file_name)
            yield "copy-within", _pair(scan, first, "identical bytes")
    matches, _ = _best_matches(group.thumbnails, group.thumbnails, min_near, same=True)
    for query, match in sorted(matches.items()):
        scan, other = group.compared[query], group.compared[match.other]
        if scan.file_name not in found and _is_copy(
            match, group.thumbnails[query], group.thumbnails, min_near
        ):
            yield "copy-within", _pair(scan, other, _evidence(match))


def _best_matches(
    queries: Thumbnails, others: Thumbnails, min_similarity: float, same: bool = False
) -> tuple[dict[int, Match], set[int]]:
    """The most similar one to each query, and the queries with too many candidates.

    Args:
        queries: thumbnails.
        others: thumbnails.
        min_similarity: of a match.
        same: whether both are the same; then a pair counts once, for the later one of it.
    """
    best: dict[int, Match] = {}
    crowded: set[int] = set()
    for match in similar_pairs(queries, others, min_similarity=min_similarity):
        if isinstance(match, int):
            crowded.add(match)
        elif not (same and match.query <= match.other):
            known = best.get(match.query)
            if known is None or match.similarity > known.similarity:
                best[match.query] = match
    return best, crowded


def _is_copy(
    match: Match, query: npt.NDArray[np.uint8], others: Thumbnails, min_near: float
) -> bool:
    (turned,) = oriented(query[None], match.orientation)
    difference = largest_difference(turned, others[match.other])
    return match.similarity >= min_near and difference <= MAX_DIFFERENCE


def _hints(later: _Group, earlier: _Group, found: Container[str]) -> Iterator[Found]:
    """Images whose names say that they were augmented from one image, without other evidence."""
    originals = {scan.original: scan for scan in reversed(earlier.scans) if scan.original}
    for scan in later.scans:
        if scan.file_name not in found and (other := originals.get(scan.original)):
            yield "copy-same-source", _pair(scan, other, f"both from {scan.original}")


def _evidence(match: Match) -> str:
    done = ORIENTATIONS[match.orientation]
    return f"{f'{done}, ' if done else ''}correlation {match.similarity:.2f}"


def _place(scan: ImageScan, text: str) -> Place:
    return Place(f"{scan.split}: {scan.file_name}, {text}", scan.split, scan.file_name)


def _pair(scan: ImageScan, other: ImageScan, evidence: str) -> Place:
    return Place(
        text=f"{scan.split}: {scan.file_name} = {other.split}: {other.file_name} ({evidence})",
        split=scan.split,
        image=scan.file_name,
        other_split=other.split,
        other_image=other.file_name,
    )
