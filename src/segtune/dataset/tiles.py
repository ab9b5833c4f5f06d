"""Tiles: a grid of overlapping windows that covers an image."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from segtune.core.errors import ConfigError
from segtune.core.tiles_settings import MAX_OVERLAP, MIN_SIDE, TilesSettings
from segtune.core.typed_json import read_typed
from segtune.dataset.coco import Image

TILES = "tiles.json"  # beside the splits of a dataset of tiles


@dataclass(frozen=True, slots=True)
class Window:
    """A part of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """The first column after it."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """The first row after it."""
        return self.top + self.height


@dataclass(frozen=True)
class Tiles:
    """Which windows there are of every image."""

    side: Annotated[int, Field(ge=MIN_SIDE)] | None  # pixels; None: one window, the whole image
    # Of neighbors, at least; fraction of the side.
    overlap: Annotated[float, Field(gt=0, le=MAX_OVERLAP)]

    @property
    def overlap_pixels(self) -> int:
        """Pixels that are common to neighbors, at least; one, whatever is rounded."""
        return max(1, math.ceil(self.overlap * (self.side or 0)))

    def windows(self, width: int, height: int) -> list[Window]:
        """The windows of an image, row by row.

        They are evenly spaced. An image that is narrower or lower than a tile has windows of its
        own width or height.

        Args:
            width: of the image, in pixels.
            height: of the image, in pixels.
        """
        columns, rows = (self._starts(length) for length in (width, height))
        side = self.side or max(width, height)
        return [
            Window(left, top, min(side, width), min(side, height))
            for top in rows
            for left in columns
        ]

    def count(self, width: int, height: int) -> int:
        """How many windows there are of an image of this size, in pixels."""
        return (self._steps(width) + 1) * (self._steps(height) + 1)

    def near(self, box_xywh: tuple[float, float, float, float], image: Image) -> list[int]:
        """The places, in the order of `windows`, of those that may show some of a box."""
        x, y, w, h = box_xywh
        side = self.side or max(image.width, image.height)
        columns, rows = self._starts(image.width), self._starts(image.height)
        across = _near(columns, x, x + w, min(side, image.width))
        down = _near(rows, y, y + h, min(side, image.height))
        return [row * len(columns) + column for row in down for column in across]

    def _starts(self, length: int) -> list[int]:
        """The first pixels of windows along one axis of an image."""
        steps = self._steps(length)
        if not (self.side and steps):
            return [0]
        return [number * (length - self.side) // steps for number in range(steps + 1)]

    def _steps(self, length: int) -> int:
        """How many windows there are along one axis of an image, without the first one."""
        if not self.side or length <= self.side:
            return 0
        step = self.side - self.overlap_pixels  # at most
        return math.ceil((length - self.side) / step)


def _near(starts: Sequence[int], begin: float, end: float, side: int) -> range:
    """The places of windows along one axis that begin before `end`, and end after `begin`."""
    return range(bisect_right(starts, begin - side), bisect_left(starts, end))


def read_tiles(path: Path) -> Tiles:
    """Read the side and the overlap that `segtune.tile` has written.

    Raises:
        DatasetError: when the file is missing or has another format.
    """
    return read_typed(path, Tiles, "Give tiles.json of segtune.tile")


def tiles_beside(coco: Path) -> Tiles | None:
    """The tiles that a converted dataset consists of; None where it has whole images."""
    path = coco / TILES
    tiles = read_tiles(path) if path.exists() else None
    return tiles if tiles and tiles.side else None


def tiles_option(value: str) -> Tiles:
    """Tiles as an option names them: by a file of `segtune.tile`, or by their side in pixels.

    Raises:
        DatasetError: when the file is missing or has another format.
        ConfigError: when the side is too small.
    """
    if not value.isdecimal():
        return read_tiles(Path(value))
    if int(value) < MIN_SIDE:
        raise ConfigError(f"{value} is less than {MIN_SIDE} pixels", file="--tiles")
    return Tiles(int(value), TilesSettings().overlap)
