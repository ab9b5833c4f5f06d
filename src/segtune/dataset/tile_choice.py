"""Which side of tiles suits the sizes of a dataset's objects, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segtune.core.config import INPUT_PIXELS
from segtune.core.tiles_settings import MIN_SIDE, TilesSettings
from segtune.dataset.coco import Image, Split
from segtune.dataset.tiles import Tiles

# The vision encoder divides its input into patches of this side. What is smaller than a patch is
# only a part of one token, and the finest of its features.
PATCH_PIXELS = {"tiny": 12, "full": 14}
SMALL, LARGE = 10, 95  # percentiles of the objects' shorter and longer sides
MAX_TILES = 256  # of the largest image; each takes as long as a whole image


@dataclass(frozen=True)
class TileChoice:
    """Tiles, and why they have this side."""

    side: int | None  # pixels; None: whole images
    overlap: float  # of neighbors, at least; fraction of the side
    reason: str  # one sentence

    @property
    def tiles(self) -> Tiles:
        """The tiles that were chosen."""
        return Tiles(self.side, self.overlap)


def choose_tiles(
    train: Split, settings: TilesSettings, *, model: str, image_size: int | None
) -> TileChoice:
    """The tiles that settings name, or that suit the objects of a training split.

    With `auto`, a tenth of the objects may be smaller than a patch of the model. A smaller side
    is not chosen where objects would be longer than the overlap (but for a twentieth of them),
    nor where the largest image would have more than 256 tiles.

    Args:
        train: whose objects are measured.
        settings: of tiles.
        model: "tiny" or "full".
        image_size: side of the model's input in pixels, if it is not the model's own.
    """
    if settings.side != "auto":
        reason = f"tiles of {settings.side} px" if settings.side else "whole images"
        return TileChoice(settings.side, settings.overlap, f"{reason}, set in the configuration")
    boxes = np.array([a.bbox_xywh[2:] for a in train.objects if not a.iscrowd]).reshape(-1, 2)
    # Also of a dataset that has not been validated yet.
    boxes = boxes[np.isfinite(boxes).all(1) & (boxes > 0).all(1)]
    if not len(boxes):
        return TileChoice(None, settings.overlap, "whole images: train has no objects")
    return _chosen(boxes, train.images, settings.overlap, _Input(model, image_size))


@dataclass(frozen=True)
class _Input:
    """What the model sees."""

    model: str
    image_size: int | None

    @property
    def pixels(self) -> int:
        return self.image_size or INPUT_PIXELS[self.model]

    @property
    def patch(self) -> int:
        return PATCH_PIXELS[self.model]


def _chosen(
    boxes: npt.NDArray[np.float64], images: Sequence[Image], overlap: float, seen: _Input
) -> TileChoice:
    """The choice for objects whose boxes have these (n, 2) sides, in pixels."""
    small = float(np.percentile(boxes.min(1), SMALL))
    large = float(np.percentile(boxes.max(1), LARGE))
    longest = max(max(image.width, image.height) for image in images)
    in_whole = small * seen.pixels / longest
    found = (
        f"a tenth of the objects of train is at most {small:.0f} px wide or high, which are "
        f"{in_whole:.1f} px of the model's input ({seen.pixels} px) if images of {longest} px "
        f"are seen as a whole"
    )
    if in_whole >= seen.patch:
        return TileChoice(
            None, overlap, f"whole images: {found}, and a patch of the model has {seen.patch}"
        )
    wanted = int(small * seen.pixels / seen.patch)
    bounds = {
        f"to reach a patch of the model, {seen.patch} px": wanted,
        f"not smaller, so that objects of {large:.0f} px (19 of 20 are at most so long) fit into "
        "the overlap": int(np.ceil(large / overlap)),
        f"not smaller, so that no image has more than {MAX_TILES} tiles": _side_for_limit(
            images, overlap
        ),
        "the smallest that there is": MIN_SIDE,
    }
    why, side = max(bounds.items(), key=lambda item: item[1])
    if side >= longest:
        return TileChoice(None, overlap, f"whole images: {found}; tiles would be as large: {why}")
    now = small * seen.pixels / side
    reason = f"tiles of {side} px: {found}, and {now:.1f} px in tiles; {why}"
    return TileChoice(side, overlap, reason)


def _side_for_limit(images: Sequence[Image], overlap: float) -> int:
    """The smallest side with which no image has more than `MAX_TILES` tiles."""
    sizes = {(image.width, image.height) for image in images}
    low, high = MIN_SIDE, max(MIN_SIDE, *(max(size) for size in sizes))
    while low < high:
        middle = (low + high) // 2
        if all(Tiles(middle, overlap).count(*size) <= MAX_TILES for size in sizes):
            high = middle
        else:
            low = middle + 1
    return low
