"""Moving copies of images to one split, so that no model is tested on what it was trained on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from segtune.core.console import progress
from segtune.core.cores import usable_cores
from segtune.core.errors import DatasetError
from segtune.dataset.coco import SPLITS, Annotation, Image, Manifest, Split
from segtune.dataset.image_copies import (
    MIN_SIMILARITY,
    Copy,
    compared_splits,
    connected,
    copies_across,
    copies_within,
)
from segtune.dataset.image_scan import ImageScan, scan_images
from segtune.exports.repairs import Repairs
from segtune.exports.split_source import Place


@dataclass(frozen=True)
class MovedImage:
    """An image that was moved because it is a copy."""

    file_name: str
    from_split: str
    to_split: str
    copy_of: str  # file_name of the image that it is a copy of
    evidence: str


def move_copies(
    splits: Mapping[str, Split], manifest: Manifest, repairs: Repairs
) -> tuple[dict[str, Split], list[MovedImage]]:
    """The splits without copies across them, and what was moved.

    Images that are copies of each other, directly or by way of others, are a group. A group with
    images in several splits goes to train if it has one there, and else to valid.

    Raises:
        DatasetError: when a split would have no image left.
    """
    moves = find_moves(_scans(list(splits.values()), manifest))
    moved = {name: _with_moves(name, splits, moves) for name in splits}
    for name, split in moved.items():
        if splits[name].images and not split.images:
            raise DatasetError(
                f"convert.copies is move_to_train, but every image of {name} is a copy of one of "
                "another split, so that none would be left",
                file=split.root,
                fix=f"Add images to {name} that no other split has, or set convert: {{copies: "
                "keep}",
            )
    for move in moves.values():
        rule = f"copy of an image moved from {move.from_split} to {move.to_split}"
        place = Place(splits[move.from_split].root / move.file_name, "image")
        repairs.log(rule, place, {"copy_of": move.copy_of, "evidence": move.evidence})
    return moved, list(moves.values())


def find_moves(scans: Sequence[ImageScan]) -> dict[str, MovedImage]:
    """What to move so that no two splits have copies of each other, by file name.

    Args:
        scans: of the images of all splits, split by split, beginning with train.
    """
    moves: dict[str, MovedImage] = {}
    # Again, because a split with other images may show another image to be the most similar one.
    while copies := _copies(scans):
        for move in _moves(copies):
            known = moves.get(move.file_name, move)
            moves[move.file_name] = replace(move, from_split=known.from_split)
        scans = _after(moves, scans)
    return moves


def _scans(splits: Sequence[Split], manifest: Manifest) -> list[ImageScan]:
    images = sum(len(split.images) for split in splits)
    with progress("compared image", images) as advance:
        scans = scan_images(splits, manifest, workers=usable_cores(), advance=advance)
        return list(scans)


def _copies(scans: Sequence[ImageScan]) -> list[Copy]:
    """All copies, unless there are none across splits."""
    splits = compared_splits(scans, MIN_SIMILARITY)
    across = [
        copy
        for earlier, later in combinations(splits, 2)
        for copy in copies_across(
            later,
            earlier,
            min_near=MIN_SIMILARITY,
            min_likely=MIN_SIMILARITY,
            min_possible=MIN_SIMILARITY,
        )[0]
        if copy.kind in ("identical", "near")
    ]
    if not across:
        return []
    return across + [copy for split in splits for copy in copies_within(split, MIN_SIMILARITY)]


def _moves(copies: Sequence[Copy]) -> Iterator[MovedImage]:
    """Each group of copies to the first split that has one of it."""
    known: dict[tuple[str, str], tuple[ImageScan, str]] = {}  # an image -> a copy, the evidence
    for copy in copies:
        known.setdefault(_key(copy.image), (copy.other, copy.evidence))
    for copy in copies:
        known.setdefault(_key(copy.other), (copy.image, copy.evidence))
    keys = list(known)
    numbers = {key: number for number, key in enumerate(keys)}
    pairs = [(numbers[_key(copy.image)], numbers[_key(copy.other)]) for copy in copies]
    for members in connected(pairs, len(keys)):
        to_split = min((keys[number][0] for number in members), key=SPLITS.index)
        for split, file_name in (keys[number] for number in members):
            if split != to_split:
                other, evidence = known[split, file_name]
                yield MovedImage(file_name, split, to_split, other.file_name, evidence)


def _key(scan: ImageScan) -> tuple[str, str]:
    return scan.split, scan.file_name


def _after(moves: Mapping[str, MovedImage], scans: Sequence[ImageScan]) -> list[ImageScan]:
    """The scans in the splits that their files have been moved to."""
    placed = [
        replace(scan, split=move.to_split) if (move := moves.get(scan.file_name)) else scan
        for scan in scans
    ]
    return sorted(placed, key=lambda scan: SPLITS.index(scan.split))


def _with_moves(name: str, splits: Mapping[str, Split], moves: Mapping[str, MovedImage]) -> Split:
    """A split with what is moved to it after its own images, all of them numbered from 1."""
    own = splits[name]
    kept = [
        i for i in own.images if i.file_name not in moves or moves[i.file_name].to_split == name
    ]
    present = {image.file_name for image in kept}
    images = [(own, image) for image in kept]
    for split in splits.values():
        for image in split.images:
            move = moves.get(image.file_name)
            if move and move.to_split == name and image.file_name not in present:
                present.add(image.file_name)
                images.append((split, image))
    return own if len(images) == len(kept) == len(own.images) else _numbered(own, images)


def _numbered(own: Split, images: Sequence[tuple[Split, Image]]) -> Split:
    """The split with these images of any split, and their annotations."""
    numbers = {(s.name, image.id): number for number, (s, image) in enumerate(images, start=1)}
    annotations: dict[int, list[Annotation]] = {number: [] for number in numbers.values()}
    count = 0
    for split in {own.name: own, **{s.name: s for s, _ in images}}.values():
        for a in split.objects:
            if number := numbers.get((split.name, a.image_id)):
                count += 1
                annotations[number].append(replace(a, id=count, image_id=number))
    return replace(
        own,
        images=tuple(replace(image, id=n) for n, (_, image) in enumerate(images, start=1)),
        annotations={number: tuple(found) for number, found in annotations.items()},
    )
