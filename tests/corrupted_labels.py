"""Labels corrupted on purpose: removed, given another class, or added where there is no object."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as mask_utils

from segtune.dataset.coco import Annotation, Split
from segtune.evaluation.label_issues import LabelIssue

ERRORS_PER_KIND = 5


@dataclass(frozen=True)
class Corrupted:
    """A split with label errors, and which these are."""

    split: Split
    removed: tuple[Annotation, ...]
    wrong: frozenset[int]  # ids of annotations

    def found(self, issues: Sequence[LabelIssue]) -> int:
        """How many of the label errors are among the issues."""
        listed = {issue.annotation_id for issue in issues}
        return len(listed & self.wrong) + sum(
            any(is_missing(a, issue) for issue in issues) for a in self.removed
        )


def corrupt(split: Split, seed: int, per_kind: int = ERRORS_PER_KIND) -> Corrupted:
    """Corrupt labels at random, fifteen by default."""
    rng = np.random.default_rng(seed)
    labels = [a for a in split.objects if a.segmentation]
    order = [labels[place] for place in rng.permutation(len(labels))]
    removed, renamed = order[:per_kind], order[per_kind : 2 * per_kind]
    annotations = {image: list(found) for image, found in split.annotations.items()}
    classes = [category.id for category in split.categories]
    for a in [*removed, *renamed]:
        annotations[a.image_id].remove(a)
    for a in renamed:
        other = int(rng.choice([c for c in classes if c != a.category_id]))
        annotations[a.image_id].append(replace(a, category_id=other))
    phantoms = _phantoms(split, labels, rng, count=per_kind)
    for a in phantoms:
        annotations[a.image_id].append(a)
    wrong = frozenset(a.id for a in [*renamed, *phantoms])
    corrupted = replace(split, annotations={i: tuple(found) for i, found in annotations.items()})
    return Corrupted(corrupted, tuple(removed), wrong)


def _phantoms(
    split: Split, labels: Sequence[Annotation], rng: np.random.Generator, *, count: int
) -> list[Annotation]:
    """Copies of labels in other images, where there is no object."""
    phantoms: list[Annotation] = []
    while len(phantoms) < count:
        image = split.images[int(rng.integers(len(split.images)))]
        a = labels[int(rng.integers(len(labels)))]
        boxes = [list(b.bbox_xywh) for b in split.annotations[image.id]]
        if boxes and mask_utils.iou([list(a.bbox_xywh)], boxes, [0] * len(boxes)).max() > 0:
            continue
        phantoms.append(replace(a, id=100_000 + len(phantoms), image_id=image.id))
    return phantoms


def is_missing(a: Annotation, issue: LabelIssue) -> bool:
    """Whether an issue is about the label that was removed."""
    if issue.image_id != a.image_id or issue.reason != "missing label":
        return False
    return bool(mask_utils.iou([list(issue.bbox_xywh)], [list(a.bbox_xywh)], [0])[0, 0] > 0.5)
