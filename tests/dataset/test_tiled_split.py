"""What of each object is in which tile, and which tiles are used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segtune.dataset.coco import Annotation, Category, Image, Split, annotation_problem
from segtune.dataset.masks import (
    Segmentation,
    mask_to_rle,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_mask,
)
from segtune.dataset.stitching import stitched
from segtune.dataset.tiled_split import Tile, split_of_tiles, tiled_split
from segtune.dataset.tiles import Tiles
from tests.regions import detection, regions
from tests.scenes import random_shapes

TILES = Tiles(40, 0.25)  # of an image of 100 x 40: from 0, 30 and 60 on
Box = tuple[float, float, float, float]


def split_of(*objects: Annotation, width: int = 100, height: int = 40) -> Split:
    """One image with these objects."""
    numbered = tuple(replace(a, id=n) for n, a in enumerate(objects, start=1))
    image = Image(1, "photo.jpg", width, height, {"view": "top"})
    return Split("train", Path(), (Category(1, "cat", "cat"),), (image,), {1: numbered})


def box(x: float, y: float, w: float, h: float, *, iscrowd: int = 0) -> Annotation:
    return Annotation(0, 1, 1, (x, y, w, h), w * h, None, iscrowd)


def mask(x: int, y: int, w: int, h: int, *, iscrowd: int = 0) -> Annotation:
    polygon: Segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return Annotation(0, 1, 1, (x, y, w, h), w * h, polygon, iscrowd)


def labeled(used: list[Tile]) -> dict[int, list[Box]]:
    """By the first column of a tile: the boxes of objects that are labeled in it."""
    return {
        tile.window.left: [a.bbox_xywh for a in tile.annotations if not a.iscrowd] for tile in used
    }


def ignored(used: list[Tile]) -> dict[int, list[Box]]:
    return {tile.window.left: [a.bbox_xywh for a in tile.annotations if a.iscrowd] for tile in used}


@pytest.mark.parametrize("kind", [box, mask])
def test_an_object_is_labeled_where_most_of_it_is(kind: type) -> None:
    # Of 8 pixels: all in the first tile, 3 in the second.
    used = tiled_split(split_of(kind(25, 5, 8, 10), kind(70, 5, 8, 10)), TILES)
    assert labeled(used) == {0: [(25, 5, 8, 10)], 60: [(10, 5, 8, 10)]}
    # The second tile has only the smaller part: nothing to detect, and not empty either.
    assert [tile.window.left for tile in used] == [0, 60]
    used = tiled_split(split_of(kind(25, 5, 8, 10), kind(50, 20, 8, 10)), TILES)
    assert labeled(used)[30] == [(20, 20, 8, 10)]
    assert ignored(used)[30] == [(0, 5, 3, 10)]


@pytest.mark.parametrize("kind", [box, mask])
def test_an_object_is_labeled_where_at_least_half_as_much_of_it_is(kind: type) -> None:
    used = tiled_split(split_of(kind(26, 5, 8, 10)), TILES)
    assert labeled(used) == {0: [(26, 5, 8, 10)], 30: [(0, 5, 4, 10)], 60: []}


@pytest.mark.parametrize("kind", [box, mask])
def test_a_part_that_no_other_label_shows_is_labeled(kind: type) -> None:
    # 40, 39 and 9 pixels of the object's 69; the last pixels are only in the last tile.
    used = tiled_split(split_of(kind(0, 5, 69, 10), kind(75, 20, 5, 5)), TILES)
    assert labeled(used)[0] == [(0, 5, 40, 10)]
    assert labeled(used)[30] == [(0, 5, 39, 10)]
    assert labeled(used)[60] == [(15, 20, 5, 5)]
    assert ignored(used)[60] == [(0, 5, 9, 10)]
    used = tiled_split(split_of(kind(0, 5, 71, 10)), TILES)
    assert labeled(used)[60] == [(0, 5, 11, 10)]


def test_a_crowd_is_in_every_tile_and_is_none() -> None:
    used = tiled_split(split_of(mask(20, 5, 70, 10, iscrowd=1), box(1, 1, 5, 5)), TILES)
    assert ignored(used) == {0: [(20, 5, 20, 10)]}
    assert labeled(used) == {0: [(1, 1, 5, 5)]}


def test_a_polygon_without_a_pixel_is_cut_as_a_box() -> None:
    thin = replace(box(10, 10, 0.2, 5), segmentation=[[10, 10, 10.2, 10, 10.2, 15, 10, 15]])
    used = tiled_split(split_of(thin), TILES)
    (a,) = (a for tile in used for a in tile.annotations)
    assert a.segmentation is None
    assert a.bbox_xywh == pytest.approx((10, 10, 0.2, 5))


def test_of_a_box_what_is_in_the_image_is_cut() -> None:
    # Wider than what pycocotools can draw.
    used = tiled_split(split_of(box(-5, 5, 1e9, 10)), TILES)
    assert labeled(used) == {left: [(0, 5, 40, 10)] for left in (0, 30, 60)}


@pytest.mark.parametrize("seed", range(6))
def test_masks_are_cut_exactly_and_the_labels_of_an_object_are_all_of_it(seed: int) -> None:
    split, _ = random_shapes(seed)
    tiles = Tiles(32 + seed, 0.25)
    used = tiled_split(split, tiles)
    new = split_of_tiles(split, used)
    seen = {
        a.id: np.zeros((image.height, image.width), bool)
        for image in split.images
        for a in split.annotations[image.id]
    }
    for tile in used:
        window, source = tile.window, tile.source
        whole = {
            a.id: segmentation_to_mask(a.segmentation or [], source.height, source.width)
            for a in split.annotations[source.id]
        }
        cells = np.s_[window.top : window.bottom, window.left : window.right]
        expected = {number: m[cells] for number, m in whole.items() if m[cells].any()}
        # All that the window shows of any object, in the order of the objects.
        assert len(expected) == len(tile.annotations)
        for (number, part), a in zip(expected.items(), tile.annotations, strict=True):
            assert a.segmentation == mask_to_rle(part)
            assert (a.bbox_xywh, a.area) == (rle_bbox_xywh(a.segmentation), part.sum())
            assert annotation_problem(a, tile.image, {1, 2, 3}) is None
            if not a.iscrowd:
                seen[number][cells] |= part.astype(bool)
    for a in split.objects:
        image = next(i for i in split.images if i.id == a.image_id)
        drawn = segmentation_to_mask(a.segmentation or [], image.height, image.width)
        assert a.iscrowd or (seen[a.id] == drawn).all()
    assert [a.id for a in new.objects] == list(range(1, len(new.objects) + 1))


@pytest.mark.parametrize("seed", range(20))
def test_the_labels_of_tiles_are_stitched_to_the_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = (int(value) for value in rng.integers(60, 300, 2))
    tiles = Tiles(int(rng.integers(40, 160)), float(rng.uniform(0.1, 0.5)))
    truth = [mask_to_rle(m) for m in regions(rng, height, width)]
    objects = [Annotation(0, 1, 1, rle_bbox_xywh(r), rle_area(r), r, 0) for r in truth]
    split = split_of(*objects, width=width, height=height)
    labels = [
        (tile.window, [detection(a.segmentation) for a in tile.annotations if not a.iscrowd])
        for tile in tiled_split(split, tiles)
    ]
    found = stitched(labels, split.images[0], overlap=tiles.overlap_pixels)
    assert sorted(d.rle["counts"] for d in found) == sorted(r["counts"] for r in truth)


def test_as_many_tiles_are_empty_as_have_objects_and_the_name_decides_which() -> None:
    wide = split_of(box(1, 1, 5, 5), box(75, 1, 5, 5), width=1000)
    used = tiled_split(wide, TILES)
    empty = [tile.window.left for tile in used if not tile.annotations]
    assert (len(used), len(empty)) == (4, 2)
    assert used == tiled_split(wide, TILES)
    renamed = replace(wide, images=(replace(wide.images[0], file_name="other.jpg"),))
    other = [tile.window.left for tile in tiled_split(renamed, TILES) if not tile.annotations]
    assert other != empty
    assert len(tiled_split(split_of(width=1000), TILES)) == 1  # an image without objects
    assert len(tiled_split(split_of(box(1, 1, 98, 38)), TILES)) == 3  # without an empty tile


def test_tiles_know_their_image() -> None:
    split = split_of(box(1, 1, 5, 5))
    images = [tile.image for tile in tiled_split(split, TILES)]
    assert {image.original for image in images} == {"photo.jpg"}
    assert all(image.fields == {"view": "top"} for image in images)
    assert [image.id for image in images] == list(range(1, len(images) + 1))
    assert len({image.file_name for image in images}) == len(images)
    copy = replace(split, images=(replace(split.images[0], original="first.jpg"),))
    assert {tile.image.original for tile in tiled_split(copy, TILES)} == {"first.jpg"}
