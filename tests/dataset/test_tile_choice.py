"""`tiles: auto`: a side that suits the objects, and the reason for it."""

from pathlib import Path
from typing import Any

import pytest

from segtune.core.config import Config, parse_config
from segtune.core.errors import ConfigError
from segtune.core.tiles_settings import TilesSettings
from segtune.dataset.coco import Annotation, Category, Image, Split
from segtune.dataset.tile_choice import MAX_TILES, PATCH_PIXELS, TileChoice, choose_tiles
from segtune.dataset.tiles import Tiles
from segtune.model.architecture import ARCHITECTURES


def split_of(*sides: tuple[float, float], image: int = 4096) -> Split:
    """One square image with objects of these widths and heights."""
    objects = tuple(
        Annotation(n, 1, 1, (0, 0, w, h), w * h, None, 0) for n, (w, h) in enumerate(sides, 1)
    )
    images = (Image(1, "a.jpg", image, image),)
    return Split("train", Path(), (Category(1, "a", "a"),), images, {1: objects})


def chosen(split: Split, model: str = "full", **settings: Any) -> TileChoice:
    section = TilesSettings(**{"side": "auto", **settings})
    return choose_tiles(split, section, model=model, image_size=None)


def test_a_tenth_of_the_objects_may_be_smaller_than_a_patch() -> None:
    small = split_of(*[(12, 20)] * 10, (5, 5), *[(40, 30)] * 89)
    choice = chosen(small)
    # 12 px are a patch of 14 px where 864 px are seen with 1008.
    assert choice.side == 12 * 1008 // 14 == 864
    assert choice.reason == (
        "tiles of 864 px: a tenth of the objects of train is at most 12 px wide or high, which "
        "are 3.0 px of the model's input (1008 px) if images of 4096 px are seen as a whole, and "
        "14.0 px in tiles; to reach a patch of the model, 14 px"
    )
    assert choice.tiles == Tiles(864, 0.25)


def test_objects_fit_into_the_overlap() -> None:
    mixed = split_of(*[(12, 20)] * 50, *[(300, 100)] * 50)
    choice = chosen(mixed)
    assert choice.side == 300 / 0.25
    assert "so that objects of 300 px (19 of 20 are at most so long) fit" in choice.reason
    assert chosen(mixed, overlap=0.5).side == 864


def test_an_image_does_not_have_too_many_tiles() -> None:
    tiny = split_of(*[(3, 3)] * 50, image=8000)
    choice = chosen(tiny)
    assert choice.side is not None
    assert len(choice.tiles.windows(8000, 8000)) <= MAX_TILES
    assert len(Tiles(choice.side - 1, 0.25).windows(8000, 8000)) > MAX_TILES
    assert f"so that no image has more than {MAX_TILES} tiles" in choice.reason


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        (split_of((100, 90)), "whole images: a tenth of the objects of train is at most 90 px"),
        (split_of(*[(12, 20)] * 50, *[(1200, 100)] * 50), "tiles would be as large"),
        (split_of(), "whole images: train has no objects"),
    ],
)
def test_images_stay_whole_where_nothing_is_gained(split: Split, reason: str) -> None:
    choice = chosen(split)
    assert choice.side is None
    assert reason in choice.reason


def test_an_image_size_counts() -> None:
    split = split_of(*[(12, 20)] * 50)
    settings = TilesSettings(side="auto")
    larger = choose_tiles(split, settings, model="full", image_size=2016)
    assert larger.side == 2 * 864
    assert chosen(split, model="tiny").side == _side_with(MAX_TILES) > 12 * 96 / 12


def _side_with(tiles: int) -> int:
    return next(n for n in range(32, 4096) if len(Tiles(n, 0.25).windows(4096, 4096)) <= tiles)


def test_patches_are_those_of_the_models() -> None:
    assert {name: a.patch_size for name, a in ARCHITECTURES.items()} == PATCH_PIXELS


@pytest.mark.parametrize(
    ("value", "side"),
    [
        (None, None),
        (False, None),
        ("null", None),
        ({"side": "null"}, None),
        ("auto", "auto"),
        (1024, 1024),
        ({"side": "640"}, 640),
        ({}, None),
    ],
)
def test_a_side_is_short_for_the_section(value: Any, side: Any) -> None:
    config = parse_config({"export": "x", "tiles": value})
    assert config.tiles == TilesSettings(side=side)
    assert Config(export="x").tiles == TilesSettings()


@pytest.mark.parametrize("value", [True, 0, 31, 100.5, "small", [640], {"side": 640, "size": 3}])
def test_what_is_not_a_side_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="tiles"):
        parse_config({"export": "x", "tiles": value})
