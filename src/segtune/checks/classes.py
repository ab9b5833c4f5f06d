"""Checks of classes: how many objects each has where."""

from collections import Counter
from collections.abc import Iterator, Sequence

from segtune.core.validate_settings import ValidateLimits
from segtune.dataset.coco import Split, has_masks
from segtune.dataset.findings import Found, Place


def class_findings(splits: Sequence[Split], limits: ValidateLimits) -> Iterator[Found]:
    """Classes of which there is too little, in train or in another split."""
    counts = {split.name: Counter(a.category_id for a in split.objects) for split in splits}
    yield from _missing(splits, counts)
    train = splits[0]
    yield from _few(train, counts[train.name], limits)
    if has_masks(train):
        yield from _box_only(train, counts[train.name], limits.max_box_only_fraction)
    if len(train.categories) == 1:
        for split in splits:
            yield from _negatives(split, limits.min_negative_fraction)


def _missing(splits: Sequence[Split], counts: dict[str, Counter[int]]) -> Iterator[Found]:
    for category in splits[0].categories:
        if not any(count[category.id] for count in counts.values()):
            # Where there are no objects at all, the split is reported.
            if splits[0].objects:
                yield "class-unused", Place(category.name)
            continue
        for split in splits:
            if split.objects and not counts[split.name][category.id]:
                yield f"class-missing-{split.name}", Place(category.name)


def _few(train: Split, counts: Counter[int], limits: ValidateLimits) -> Iterator[Found]:
    names = {category.id: category.name for category in train.categories}
    known = {number: counts[number] for number in names if counts[number]}
    most = max(known, key=lambda number: known[number], default=0)
    for number, count in known.items():
        if count < limits.min_class_objects:
            text = f"{names[number]}: {count}, and {limits.min_class_objects} are advisable"
            yield "class-few-objects", Place(text)
        if known[most] / count > limits.max_imbalance:
            text = f"{names[number]}: {count}, but {names[most]}: {known[most]}"
            yield "class-imbalance", Place(text)


def _box_only(train: Split, counts: Counter[int], limit: float) -> Iterator[Found]:
    boxes = Counter(a.category_id for a in train.objects if not a.segmentation)
    for category in train.categories:
        if boxes[category.id] > limit * counts[category.id]:
            text = f"{category.name}: {boxes[category.id]} of {counts[category.id]} objects"
            yield "class-box-only", Place(text)


def _negatives(split: Split, limit: float) -> Iterator[Found]:
    negatives = sum(not found for found in split.annotations.values())
    if split.objects and negatives < limit * len(split.images):
        text = f"{split.name}: {negatives} of {len(split.images)} images are without it"
        yield "class-no-negatives", Place(text)
