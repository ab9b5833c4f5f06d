"""Suspected label errors of `train` that are not trained on: neither as positives nor as negatives.

An issue excludes the classes it is about from the prompts of its image, and nothing else. Of an
image in tiles, it does so in those that show the place of the issue.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.core.console import log_line
from segtune.core.errors import DatasetError
from segtune.core.fingerprints import file_digest
from segtune.core.typed_json import read_typed
from segtune.dataset.coco import Split
from segtune.dataset.masks import BoxXywh
from segtune.dataset.tiled_split import box_within, source_key, tile_source
from segtune.dataset.tiles import Window
from segtune.training.prompted_images import PromptedImages

FIX = "Give an issues.json that segtune.label_issues wrote"


# Not the types of the wing that finds issues: an edit there must not be a reason to train again.
@dataclass(frozen=True)
class _Proposal:
    """The part of a proposal that training needs."""

    bbox_xywh: BoxXywh  # pixels of the image


@dataclass(frozen=True)
class _Issue:
    """The part of an issue that training needs."""

    split: str
    file_name: str
    bbox_xywh: BoxXywh  # pixels of the image
    labeled: str | None  # class
    predicted: str | None  # class
    proposal: _Proposal | None  # may lie in more tiles than the label


@dataclass(frozen=True)
class _Issues:
    """The part of `issues.json` that training needs."""

    min_score: float
    images: dict[str, int]
    issues: list[_Issue]


@dataclass(frozen=True)
class ExcludedClasses:
    """What images are not prompted with."""

    by_image: dict[str, frozenset[int]]  # file name -> ids of classes
    issues: int  # of train, that exclude something
    unknown: int  # of train, whose image or class is not in this dataset

    def describe(self, dataset: PromptedImages) -> None:
        """Print what is excluded from a dataset, if anything was to be."""
        if not self.issues and not self.unknown:
            return
        pairs = sum(map(len, self.by_image.values()))
        skipped = len(dataset.split.images) - len(dataset.images)
        log_line(
            f"excluded because of {self.issues} issues: {pairs} pairs of image and class in "
            f"{len(self.by_image)} images; {skipped} images without any prompt are skipped"
        )
        if self.unknown:
            log_line(
                f"WARNING: {self.unknown} issues are of images or classes that train does not have"
            )


def excluded_classes(path: str | None, train: Split, *, tiled: bool) -> ExcludedClasses:
    """The classes that the issues of `train` are about, by image.

    Args:
        path: of an `issues.json`; None excludes nothing.
        train: the training split.
        tiled: whether it consists of tiles; the issues are of whole images.

    Raises:
        DatasetError: when it cannot be read, or excludes every label of the split.
    """
    categories = {category.name: category.id for category in train.categories}
    tiles = _tiles_by_source(train) if tiled else {}
    names = {image.file_name for image in train.images}
    found: dict[str, frozenset[int]] = {}
    known = unknown = 0
    for issue in read_typed(Path(path), _Issues, FIX).issues if path else []:
        if issue.split != "train":
            continue
        classes = {categories.get(name) for name in (issue.labeled, issue.predicted) if name}
        ids = frozenset(number for number in classes if number is not None)
        showing = _showing(issue, tiles) if tiled else names & {issue.file_name}
        if not showing or len(ids) < len(classes):
            unknown += 1
            continue
        known += 1
        for name in showing:
            found[name] = found.get(name, frozenset()) | ids
    _require_labels(path, train, found)
    return ExcludedClasses(found, known, unknown)


def _tiles_by_source(train: Split) -> dict[str, list[tuple[str, Window]]]:
    """The tiles of each image by its key."""
    found: dict[str, list[tuple[str, Window]]] = defaultdict(list)
    for tile in train.images:
        key, window = tile_source(tile)
        found[key].append((tile.file_name, window))
    return found


def _showing(issue: _Issue, tiles: Mapping[str, Sequence[tuple[str, Window]]]) -> set[str]:
    """The tiles that show some of the place of an issue: of the label, or of what is proposed."""
    boxes = [issue.bbox_xywh, *([issue.proposal.bbox_xywh] if issue.proposal else [])]
    return {
        name
        for name, window in tiles.get(source_key(issue.file_name), [])
        if any(box_within(box, window) for box in boxes)
    }


def issues_fingerprint(path: str | None) -> dict[str, str]:
    """The content of an `issues.json` as a part of a run's fingerprint; nothing without one.

    Raises:
        DatasetError: when it cannot be read.
    """
    return {"issues_sha256": file_digest(Path(path), DatasetError, FIX)} if path else {}


def _require_labels(path: str | None, train: Split, found: dict[str, frozenset[int]]) -> None:
    left = (
        a
        for image in train.images
        for a in train.annotations[image.id]
        if a.category_id not in found.get(image.file_name, frozenset())
    )
    if found and next(left, None) is None:
        raise DatasetError(
            "these issues exclude every label of the train split",
            file=path,
            fix="Raise label_issues.min_score, or remove issues from the file",
        )
