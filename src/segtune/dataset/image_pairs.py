"""Which images of two datasets are the same: those whose files have the same SHA-256.

Names do not count. Files that show the same in another encoding count where they have been
recognized, see `encoded_anew`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from segtune.dataset.coco import SPLITS, Image, Split
from segtune.dataset.images import COPY_SUFFIX


@dataclass(frozen=True)
class Dataset:
    """A converted dataset, and the content of its images."""

    splits: Mapping[str, Split]  # train, valid and test
    digests: Mapping[str, str]  # file name -> SHA-256
    recognized: Mapping[str, str] = field(default_factory=dict)  # file name -> another's SHA-256

    @property
    def images(self) -> dict[str, Image]:
        """Every image by its file name, once where two splits have it."""
        return {image.file_name: image for split in self.splits.values() for image in split.images}

    def identity(self, image: Image) -> str:
        """What an image has in common with the same one of another dataset."""
        return self.recognized.get(image.file_name) or self.digests[image.file_name]

    def identities_of(self, split: str) -> set[str]:
        """The identity of every image of a split."""
        return {self.identity(image) for image in self.splits[split].images}


@dataclass(frozen=True)
class Place:
    """An image and the name of its split."""

    split: str
    image: Image

    @property
    def name(self) -> str:
        """Of the image before it was exported, where that is known."""
        return original_name(self.image)


def original_name(image: Image) -> str:
    """The name of the image that an image was exported from, by its record or its own name."""
    return image.original or COPY_SUFFIX.sub("", image.file_name)


@dataclass(frozen=True)
class Pair:
    """One image in two datasets."""

    before: Place
    after: Place

    def is_in(self, split: str) -> bool:
        """Whether it is in this split of both."""
        return self.before.split == self.after.split == split


@dataclass(frozen=True)
class PairedImages:
    """The images of two datasets."""

    same: tuple[Pair, ...]  # by content
    replaced: tuple[Pair, ...]  # the same name and split, other content
    removed: tuple[Place, ...]
    added: tuple[Place, ...]


@dataclass
class _Unpaired:
    before: list[Place] = field(default_factory=list)
    after: list[Place] = field(default_factory=list)

    def pairs(self) -> list[Pair]:
        """Pairs within a split first, then across splits; both are taken out."""
        found = [
            Pair(before, after)
            for split in SPLITS
            for before, after in zip(
                [place for place in self.before if place.split == split],
                [place for place in self.after if place.split == split],
                strict=False,
            )
        ]
        self._take_out(found)
        moved = [Pair(*places) for places in zip(self.before, self.after, strict=False)]
        self._take_out(moved)
        return [*found, *moved]

    def _take_out(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            self.before.remove(pair.before)
            self.after.remove(pair.after)


def pair_images(before: Dataset, after: Dataset) -> PairedImages:
    """Pair the images of two datasets by content; then, within a split, by name.

    An image that a dataset has several times is paired as often as both have it.
    """
    by_content: dict[object, _Unpaired] = {}
    for place in _places(before):
        by_content.setdefault(before.identity(place.image), _Unpaired()).before.append(place)
    for place in _places(after):
        by_content.setdefault(after.identity(place.image), _Unpaired()).after.append(place)
    same = [pair for unpaired in by_content.values() for pair in unpaired.pairs()]
    by_name: dict[object, _Unpaired] = {}
    for unpaired in by_content.values():
        for place in unpaired.before:
            by_name.setdefault((place.split, place.name), _Unpaired()).before.append(place)
        for place in unpaired.after:
            by_name.setdefault((place.split, place.name), _Unpaired()).after.append(place)
    replaced = [pair for unpaired in by_name.values() for pair in unpaired.pairs()]
    return PairedImages(
        same=tuple(same),
        replaced=tuple(replaced),
        removed=tuple(place for unpaired in by_name.values() for place in unpaired.before),
        added=tuple(place for unpaired in by_name.values() for place in unpaired.after),
    )


def _places(dataset: Dataset) -> Iterable[Place]:
    return (Place(name, image) for name in SPLITS for image in dataset.splits[name].images)
