"""Objects that are probably not labeled, by images that show almost the same."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csgraph

from segtune.dataset.coco import Category, Image, Split
from segtune.dataset.findings import MAX_OBJECTS, Found, Place
from segtune.dataset.image_copies import ComparedSplit, differences


def burst_findings(splits: Sequence[Split], compared: Sequence[ComparedSplit]) -> Iterator[Found]:
    """Classes that are labeled in only some images of a burst: frames of a video, or copies.

    That is a hint and no proof, because an object may have left while all else stayed.

    Args:
        splits: as they were read.
        compared: the same, compared with themselves; similar images are a burst.
    """
    by_name = {split.name: split for split in splits}
    for part in compared:
        yield from _in_split(by_name[part.name], part)


def _in_split(split: Split, part: ComparedSplit) -> Iterator[Found]:
    """Each image without a class, with the one that has it and is closest to it in its burst."""
    by_name = {image.file_name: image for image in split.images}
    images = [by_name[scan.file_name] for scan in part.scans]
    graph = differences(part)
    for category in split.categories:
        having = [n for n, image in enumerate(images) if split.ground_truth(image.id, category.id)]
        if not having:
            continue
        distances, _, closest = csgraph.dijkstra(
            graph, directed=False, indices=having, return_predecessors=True, min_only=True
        )
        for n in np.flatnonzero(np.isfinite(distances) & (distances > 0)):
            place = _pair(split, category, images[n], images[closest[n]])
            yield "object-missing-in-burst", place


def _pair(split: Split, category: Category, image: Image, other: Image) -> Place:
    shown = split.ground_truth(other.id, category.id)[:MAX_OBJECTS]
    return Place(
        text=f"{split.name}: {image.file_name}, no {category.name}, but {other.file_name} has some",
        split=split.name,
        image=image.file_name,
        other_split=split.name,
        other_image=other.file_name,
        other_object_ids=tuple(a.id for a in shown),
    )
