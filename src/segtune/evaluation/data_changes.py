"""What changed from one dataset to another: images, splits, labels, classes and prompts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segtune.dataset.coco import SPLITS, Category
from segtune.dataset.image_pairs import Dataset, Pair, PairedImages
from segtune.evaluation.object_changes import MatchedLabels, match_labels

RENAMED_FRACTION = 0.9  # of the objects of both names, from which a class counts as renamed


@dataclass(frozen=True)
class ObjectChanges:
    """How many objects differ, in images that both datasets have."""

    added: int = 0
    removed: int = 0
    reclassified: int = 0  # another class
    reshaped: int = 0  # another mask or box, of the same class

    def __add__(self, other: "ObjectChanges") -> "ObjectChanges":
        return ObjectChanges(
            added=self.added + other.added,
            removed=self.removed + other.removed,
            reclassified=self.reclassified + other.reclassified,
            reshaped=self.reshaped + other.reshaped,
        )

    @property
    def any(self) -> bool:
        """Whether anything differs."""
        return self != ObjectChanges()


@dataclass(frozen=True)
class SplitChanges:
    """How one split differs; images by file name."""

    images_before: int
    images_after: int
    objects_before: int
    objects_after: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    encoded_anew: tuple[str, ...]  # the same image in another file
    replaced: tuple[str, ...]  # the same name, another image
    moved_here: dict[str, tuple[str, ...]]  # by the split that they were in
    relabeled: tuple[str, ...]
    objects: ObjectChanges  # in the relabeled images


@dataclass(frozen=True)
class PromptChange:
    """A class of both datasets with another prompt."""

    name: str  # as it is now
    before: str
    after: str


@dataclass(frozen=True)
class DataChanges:
    """Everything that differs between two datasets."""

    splits: dict[str, SplitChanges]
    classes_added: tuple[str, ...]
    classes_removed: tuple[str, ...]
    classes_renamed: dict[str, str]  # from -> to
    prompts: tuple[PromptChange, ...]


@dataclass(frozen=True)
class ComparedData:
    """Two datasets with their images paired."""

    images: PairedImages
    labels: tuple[ObjectChanges, ...]  # of each image that is the same
    common: dict[str, str]  # name of a class of both, before -> after
    changes: DataChanges


def compare_data(before: Dataset, after: Dataset, images: PairedImages) -> ComparedData:
    """Compare two datasets, whose same images have the same sizes.

    A class is renamed if, in these, at least 90% of its objects are of a class that is new, and at
    least 90% of those of the new one were of this class.
    """
    matched = [_matched(before, after, pair) for pair in images.same]
    old, new = ({c.name: c for c in _categories(d)} for d in (before, after))
    renamed = _renamed(old, new, matched)
    common = {name: renamed.get(name, name) for name in old if name in renamed or name in new}
    labels = tuple(_object_changes(found, common) for found in matched)
    changes = DataChanges(
        splits={
            name: _split_changes(before, after, images=images, labels=labels, name=name)
            for name in SPLITS
        },
        classes_added=tuple(name for name in new if name not in common.values()),
        classes_removed=tuple(name for name in old if name not in common),
        classes_renamed=renamed,
        prompts=tuple(
            PromptChange(now, old[was].prompt, new[now].prompt)
            for was, now in common.items()
            if old[was].prompt != new[now].prompt
        ),
    )
    return ComparedData(images, labels, common, changes)


def _categories(dataset: Dataset) -> Sequence[Category]:
    return dataset.splits["test"].categories  # all splits have the same


def _matched(before: Dataset, after: Dataset, pair: Pair) -> MatchedLabels:
    old, new = before.splits[pair.before.split], after.splits[pair.after.split]
    return match_labels(
        pair.after.image,
        old.annotations[pair.before.image.id],
        new.annotations[pair.after.image.id],
        names=({c.id: c.name for c in old.categories}, {c.id: c.name for c in new.categories}),
    )


def _renamed(
    old: Iterable[str], new: Iterable[str], matched: Sequence[MatchedLabels]
) -> dict[str, str]:
    counts = Counter((o.before, o.after) for found in matched for o in found.matched)
    # What was removed or added did not change its name.
    totals_before = Counter(name for found in matched for name in found.removed)
    totals_after = Counter(name for found in matched for name in found.added)
    for (was, now), count in counts.items():
        totals_before[was] += count
        totals_after[now] += count
    gone, come = set(old) - set(new), set(new) - set(old)
    return {
        was: now
        for (was, now), count in sorted(counts.items())
        if was in gone and now in come
        if count >= RENAMED_FRACTION * max(totals_before[was], totals_after[now])
    }


def _object_changes(found: MatchedLabels, common: Mapping[str, str]) -> ObjectChanges:
    kept = [o for o in found.matched if common.get(o.before) == o.after]
    return ObjectChanges(
        added=len(found.added),
        removed=len(found.removed),
        reclassified=len(found.matched) - len(kept),
        reshaped=sum(o.reshaped for o in kept),
    )


def _split_changes(
    before: Dataset,
    after: Dataset,
    *,
    images: PairedImages,
    labels: Sequence[ObjectChanges],
    name: str,
) -> SplitChanges:
    here = [
        (pair, changed)
        for pair, changed in zip(images.same, labels, strict=True)
        if pair.after.split == name
    ]
    old, new = before.splits[name], after.splits[name]
    moved = {
        origin: tuple(p.after.image.file_name for p, _ in here if p.before.split == origin)
        for origin in SPLITS
        if origin != name
    }
    return SplitChanges(
        images_before=len(old.images),
        images_after=len(new.images),
        objects_before=len(old.objects),
        objects_after=len(new.objects),
        added=tuple(p.image.file_name for p in images.added if p.split == name),
        removed=tuple(p.image.file_name for p in images.removed if p.split == name),
        encoded_anew=tuple(
            pair.after.image.file_name for pair, _ in here if is_encoded_anew(before, after, pair)
        ),
        replaced=tuple(p.after.image.file_name for p in images.replaced if p.after.split == name),
        moved_here={origin: names for origin, names in moved.items() if names},
        relabeled=tuple(p.after.image.file_name for p, changed in here if changed.any),
        objects=sum((changed for _, changed in here), ObjectChanges()),
    )


def is_encoded_anew(before: Dataset, after: Dataset, pair: Pair) -> bool:
    """Whether two datasets have an image in different files."""
    old, new = pair.before.image.file_name, pair.after.image.file_name
    return before.digests[old] != after.digests[new]
