"""The grid of windows, and masks cut by them."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from segtune.core.errors import ConfigError, DatasetError
from segtune.core.tiles_settings import TilesSettings
from segtune.dataset.coco import Image
from segtune.dataset.mask_windows import area_within, cut, placed, without
from segtune.dataset.masks import mask_to_rle, segmentation_to_mask
from segtune.dataset.tiled_split import box_within
from segtune.dataset.tiles import Tiles, Window, tiles_beside, tiles_option


def random_window(rng: np.random.Generator, height: int, width: int) -> Window:
    """Any window of an image."""
    top, left = int(rng.integers(height)), int(rng.integers(width))
    return Window(
        left, top, int(rng.integers(1, width - left + 1)), int(rng.integers(1, height - top + 1))
    )


@pytest.mark.parametrize("seed", range(60))
def test_windows_cover_an_image_and_overlap_enough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiles = Tiles(int(rng.integers(32, 200)), float(rng.uniform(0.05, 0.5)))
    width, height = (int(value) for value in rng.integers(8, 700, 2))
    windows = tiles.windows(width, height)
    assert tiles.side is not None
    for length, spans in (
        (width, sorted({(w.left, w.right) for w in windows})),
        (height, sorted({(w.top, w.bottom) for w in windows})),
    ):
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert all(end - start == min(tiles.side, length) for start, end in spans)
        for (_, end), (start, _) in pairwise(spans):
            assert end - start >= tiles.overlap * tiles.side
        steps = np.diff([start for start, _ in spans])
        assert len(steps) == 0 or steps.max() - steps.min() <= 1
        # No more than needed: with one less, some neighbors would overlap too little.
        if len(spans) > 2:
            common = tiles.side - (length - tiles.side) / (len(spans) - 2)
            assert common < np.ceil(tiles.overlap * tiles.side)
    columns, rows = {w.left for w in windows}, {w.top for w in windows}
    assert len(windows) == len(columns) * len(rows) == len(set(windows))


@pytest.mark.parametrize("seed", range(40))
def test_windows_are_counted_and_found_as_if_all_were_tried(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiles = Tiles(int(rng.integers(32, 200)), float(rng.uniform(0.05, 0.5)))
    if seed % 10 == 0:
        tiles = Tiles(None, 0.25)
    width, height = (int(value) for value in rng.integers(8, 700, 2))
    windows, image = tiles.windows(width, height), Image(1, "any.png", width, height)
    assert tiles.count(width, height) == len(windows)
    for _ in range(50):
        # Also beyond the image, of whole pixels, and without a width.
        x, y = rng.uniform(-20, [width + 20, height + 20])
        w, h = rng.uniform(0, 300, 2) * rng.integers(2, size=2)
        box = (x, y, w, h) if rng.random() < 0.5 else (round(x), round(y), round(w), round(h))
        near = set(tiles.near(box, image))
        shown = [n for n, window in enumerate(windows) if box_within(box, window)]
        assert [n for n in sorted(near) if box_within(box, windows[n])] == shown
        if w > 1 and h > 1:
            assert sorted(near) == shown


def test_without_a_side_the_image_is_one_window() -> None:
    assert Tiles(None, 0.25).windows(4000, 3000) == [Window(0, 0, 4000, 3000)]
    assert Tiles(64, 0.25).windows(60, 20) == [Window(0, 0, 60, 20)]


@pytest.mark.parametrize("seed", range(80))
def test_masks_are_cut_and_placed_as_pixels_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(value) for value in rng.integers(1, 40, 2))
    density = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    pixels = (rng.random((height, width)) < density).astype(np.uint8)
    rle, window = mask_to_rle(pixels), random_window(rng, height, width)
    part = pixels[window.top : window.bottom, window.left : window.right]
    # As what pycocotools encodes, to the last character.
    assert cut(rle, window) == mask_to_rle(part)
    assert area_within(rle, window) == part.sum()
    inside = np.zeros_like(pixels)
    inside[window.top : window.bottom, window.left : window.right] = part
    back = placed(mask_to_rle(part), window, height=height, width=width)
    assert back == mask_to_rle(inside)
    assert without(rle, window) == mask_to_rle(pixels - inside)
    assert (segmentation_to_mask(back, height, width) == inside).all()


def test_an_option_names_a_side_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tiles.json"
    path.write_text(json.dumps({"side": 300, "overlap": 0.4, "reason": "because", "splits": {}}))
    assert tiles_option(str(path)) == tiles_beside(tmp_path) == Tiles(300, 0.4)
    assert tiles_option("640") == Tiles(640, TilesSettings().overlap)
    assert tiles_beside(tmp_path / "other") is None
    with pytest.raises(ConfigError, match="31 is less than 32 pixels"):
        tiles_option("31")
    # With so large an overlap, neighbors of 32 pixels would not be a pixel apart.
    for damaged in ({"side": 3, "overlap": 0.4}, {"side": 32, "overlap": 0.97}):
        path.write_text(json.dumps(damaged))
        with pytest.raises(DatasetError, match=r"tiles\.json.*segtune\.tile"):
            tiles_option(str(path))
