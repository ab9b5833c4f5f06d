"""How much a dataset holds, and how sizes and shapes are distributed in it."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from segtune.checks.objects import resized_side
from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.findings import Histogram, SplitSummary, is_finite, with_images
from segtune.dataset.tiles import Tiles

# Each value begins a range; what is smaller than all is in one more.
SIDES = (4, 8, 16, 32, 64, 128, 256, 512)  # pixels
ASPECTS = (1 / 4, 1 / 2, 2 / 3, 3 / 2, 2, 4)  # width by height
ASPECT_NAMES = ("below 1:4", "1:4", "1:2", "about 1:1", "3:2", "2:1", "4:1 and more")
COUNTS = (1, 2, 3, 5, 9, 17, 33, 65, 129)  # objects


def summary(split: Split) -> SplitSummary:
    """How much a split holds."""
    names = {category.id: category.name for category in split.categories}
    per_class = Counter(a.category_id for a in split.objects)
    return SplitSummary(
        images=len(split.images),
        images_without_objects=sum(not found for found in split.annotations.values()),
        objects=len(split.objects),
        box_only_objects=sum(not a.segmentation for a in split.objects),
        per_class={name: per_class[number] for number, name in names.items()},
    )


def histograms(
    splits: Sequence[Split], input_pixels: int, tiles: Tiles | None = None
) -> tuple[Histogram, ...]:
    """Sizes and aspect ratios of objects, and objects per image.

    Args:
        splits: as they were read.
        input_pixels: side of the square that each image, or each tile, is resized to.
        tiles: in which images are seen; None for whole images.
    """

    def side(image: Image, a: Annotation) -> float:
        return resized_side(a.bbox_xywh, image, input_pixels, tiles)

    def aspect(image: Image, a: Annotation) -> float:
        return a.bbox_xywh[2] / a.bbox_xywh[3]

    sizes = f"Size of objects: pixels of a side, in an input of {input_pixels}"
    return (
        Histogram(sizes, _names(SIDES, " px"), _of_objects(splits, side, SIDES)),
        Histogram(
            "Aspect ratio of objects: width to height",
            ASPECT_NAMES,
            _of_objects(splits, aspect, ASPECTS),
        ),
        Histogram(
            "Objects per image",
            _names(COUNTS, ""),
            {s.name: _counts(map(len, s.annotations.values()), COUNTS) for s in splits},
        ),
    )


def _of_objects(
    splits: Sequence[Split], value: Callable[[Image, Annotation], float], bounds: Sequence[float]
) -> dict[str, tuple[int, ...]]:
    return {
        split.name: _counts(
            (
                value(image, a)
                for image, a in with_images(split)
                if is_finite(a.bbox_xywh) and min(a.bbox_xywh[2:]) > 0
            ),
            bounds,
        )
        for split in splits
    }


def _counts(values: Iterable[float], bounds: Sequence[float]) -> tuple[int, ...]:
    found = Counter(bisect_right(bounds, value) for value in values)
    return tuple(found[place] for place in range(len(bounds) + 1))


def _names(bounds: Sequence[int], unit: str) -> tuple[str, ...]:
    inner = [f"{low}" if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(bounds)]
    first = "0" if bounds[0] == 1 else f"below {bounds[0]}"
    return tuple(f"{name}{unit}" for name in (first, *inner, f"{bounds[-1]} or more"))
