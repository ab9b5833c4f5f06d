"""Labels corrupted on purpose: removed, given another class, or drawn where nothing is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as mask_utils

from segtune.dataset.coco import Annotation, Split
from segtune.evaluation.label_issues import LabelIssue

OF_EACH_KIND = 5


@dataclass(frozen=True)
class Corrupted:
    """A split with wrong labels, and which these are."""

    split: Split
    removed: tuple[Annotation, ...]
    wrong: frozenset[int]  # ids of annotations

    def found(self, label_issues: Sequence[LabelIssue]) -> int:
        """How many of the wrong labels are among the label_issues."""
        listed = {s.annotation_id for s in label_issues}
        return len(listed & self.wrong) + sum(
            any(_same_place(a, s) for s in label_issues) for a in self.removed
        )


def corrupt(split: Split, seed: int) -> Corrupted:
    """Spoil fifteen labels at random."""
    rng = np.random.default_rng(seed)
    labels = [a for found in split.annotations.values() for a in found if a.segmentation]
    order = [labels[place] for place in rng.permutation(len(labels))]
    removed, renamed = order[:OF_EACH_KIND], order[OF_EACH_KIND : 2 * OF_EACH_KIND]
    annotations = {image: list(found) for image, found in split.annotations.items()}
    classes = [category.id for category in split.categories]
    for a in [*removed, *renamed]:
        annotations[a.image_id].remove(a)
    for a in renamed:
        other = int(rng.choice([c for c in classes if c != a.category_id]))
        annotations[a.image_id].append(replace(a, category_id=other))
    phantoms = _phantoms(split, labels, rng)
    for a in phantoms:
        annotations[a.image_id].append(a)
    wrong = frozenset(a.id for a in [*renamed, *phantoms])
    corrupted = replace(split, annotations={i: tuple(found) for i, found in annotations.items()})
    return Corrupted(corrupted, tuple(removed), wrong)


def _phantoms(
    split: Split, labels: Sequence[Annotation], rng: np.random.Generator
) -> list[Annotation]:
    """Copies of objects on other images, where no object is."""
    phantoms: list[Annotation] = []
    while len(phantoms) < OF_EACH_KIND:
        image = split.images[int(rng.integers(len(split.images)))]
        a = labels[int(rng.integers(len(labels)))]
        boxes = [list(b.bbox_xywh) for b in split.annotations[image.id]]
        if boxes and mask_utils.iou([list(a.bbox_xywh)], boxes, [0] * len(boxes)).max() > 0:
            continue
        phantoms.append(replace(a, id=100_000 + len(phantoms), image_id=image.id))
    return phantoms


def _same_place(a: Annotation, label_issue: LabelIssue) -> bool:
    if label_issue.image_id != a.image_id or label_issue.reason != "unlabelled":
        return False
    return bool(mask_utils.iou([list(label_issue.bbox_xywh)], [list(a.bbox_xywh)], [0])[0, 0] > 0.5)
