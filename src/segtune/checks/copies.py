"""Images that are in more than one split, by evidence.

A model that is tested on images that it was trained on gets scores that mean nothing. Identical
bytes are proof; so is the structure of the pixels, down to a threshold that no pair of different
images has come near. Below it, the pair is only likely, or possible: then, enough places in both
images must agree. A common name is only a hint.
"""

from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from segtune.core.validate_settings import ValidateLimits
from segtune.dataset.findings import Found, Place
from segtune.dataset.image_copies import ComparedSplit, Copy, copies_across, copies_within
from segtune.dataset.image_scan import ImageScan
from segtune.dataset.perceptual_hash import MAX_CANDIDATES
from segtune.dataset.same_scene import agreement

# Correlation of a pair that is possible, and the fraction of its places that must agree: the
# demo's drawings reach 0.9 and 0.1 without being copies.
MIN_POSSIBLE = 0.5
MIN_AGREEMENT = 0.2


def copy_findings(
    splits: Sequence[ComparedSplit], root: Path, limits: ValidateLimits
) -> Iterator[Found]:
    """Copies among the images of all splits.

    Of each image of a split, at most one is named from each earlier split: the most similar one.

    Args:
        splits: compared with themselves, beginning with train.
        root: folder of the images.
        limits: the similarity from which a pair is an image and its copy, and that from which it
            is worth looking at.
    """
    for split in splits:
        for scan in split.plain:
            text = "too plain for any comparison but of its bytes"
            yield "copy-unchecked", _place(scan, text)
    for number, later in enumerate(splits):
        for earlier in splits[:number]:
            yield from _across(later, earlier, root, limits)
    for split in splits:
        for copy in copies_within(split, limits.copy_similarity):
            yield "copy-within", _pair(copy.image, copy.other, copy.evidence)


def _across(
    later: ComparedSplit, earlier: ComparedSplit, root: Path, limits: ValidateLimits
) -> Iterator[Found]:
    """Images of a split that are in an earlier one, too."""
    copies, crowded = copies_across(
        later,
        earlier,
        min_near=limits.copy_similarity,
        min_likely=limits.likely_copy_similarity,
        min_possible=min(MIN_POSSIBLE, limits.likely_copy_similarity),
    )
    found: set[str] = set()
    for copy in copies:
        if copy.kind != "possible":
            found.add(copy.image.file_name)
            yield f"copy-{copy.kind}", _pair(copy.image, copy.other, copy.evidence)
        elif (agreeing := _agreement(copy, root)) >= MIN_AGREEMENT:
            found.add(copy.image.file_name)
            evidence = f"{copy.evidence}, {agreeing:.0%} of the places agree"
            yield "copy-likely", _pair(copy.image, copy.other, evidence)
    for scan in (scan for scan in crowded if scan.file_name not in found):
        text = f"more than {MAX_CANDIDATES} similar images in {earlier.name}, of which"
        yield "copy-unchecked", _place(scan, f"{text} only the most similar are compared")
    yield from _hints(later, earlier, found)


def _agreement(copy: Copy, root: Path) -> float:
    one, other = root / copy.image.file_name, root / copy.other.file_name
    return agreement(one, other, copy.orientation)


def _hints(later: ComparedSplit, earlier: ComparedSplit, found: Container[str]) -> Iterator[Found]:
    """Images whose names say that they were augmented from one image, without other evidence."""
    originals = {scan.original: scan for scan in reversed(earlier.scans) if scan.original}
    for scan in later.scans:
        if scan.file_name not in found and (other := originals.get(scan.original)):
            yield "copy-same-source", _pair(scan, other, f"both from {scan.original}")


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
