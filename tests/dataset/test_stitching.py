"""Stitching: what a perfect model finds in windows is the ground truth; seams leave no trace."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as mask_utils
from scipy import ndimage

from segtune.dataset.coco import Image
from segtune.dataset.detections import Detection
from segtune.dataset.mask_windows import cut
from segtune.dataset.masks import (
    Rle,
    mask_to_rle,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_mask,
)
from segtune.dataset.stitching import stitched
from segtune.dataset.tiles import Tiles, Window
from tests.regions import detection, regions

Mask = npt.NDArray[np.uint8]
InWindows = list[tuple[Window, list[Detection]]]


def seen(objects: Sequence[Detection], image: Image, tiles: Tiles) -> InWindows:
    """What a perfect model finds in each window: every object, as far as the window shows it."""
    found: InWindows = []
    for window in tiles.windows(image.width, image.height):
        pieces = [(one, cut(one.rle, window)) for one in objects]
        own = [
            replace(one, rle=piece, bbox_xywh=rle_bbox_xywh(piece))
            for one, piece in pieces
            if rle_area(piece)
        ]
        found.append((window, own))
    return found


def stitch(in_windows: InWindows, image: Image, tiles: Tiles) -> list[Detection]:
    return stitched(in_windows, image, overlap=tiles.overlap_pixels)


def sorted_masks(found: Sequence[Detection]) -> list[tuple[int, float, str, tuple[float, ...]]]:
    return sorted((d.category_id, d.score, d.rle["counts"], d.bbox_xywh) for d in found)


@pytest.mark.parametrize("seed", range(40))
def test_a_perfect_model_gives_the_ground_truth_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = (int(value) for value in rng.integers(20, 300, 2))
    tiles = Tiles(int(rng.integers(32, 160)), float(rng.uniform(0.05, 0.5)))
    # Of two classes and a few scores, so that there are ties.
    truth = [
        detection(mask_to_rle(m), int(rng.integers(1, 3)), float(rng.choice([0.3, 0.9])))
        for m in regions(rng, height, width)
    ]
    image = Image(1, "any.png", width, height)
    in_windows = [
        (window, [found[n] for n in rng.permutation(len(found))])
        for window, found in seen(truth, image, tiles)
    ]
    found = stitch([in_windows[n] for n in rng.permutation(len(in_windows))], image, tiles)
    assert sorted_masks(found) == sorted_masks(truth)


def test_an_object_in_several_parts_is_one_where_a_window_shows_two_of_them() -> None:
    image, tiles = Image(1, "any.png", 150, 100), Tiles(100, 0.5)
    pixels = np.zeros((100, 150), np.uint8)
    pixels[40:44, 60:64] = pixels[50:53, 90:93] = pixels[50:53, 120:123] = 1
    truth = [detection(mask_to_rle(pixels))]
    assert sorted_masks(stitch(seen(truth, image, tiles), image, tiles)) == sorted_masks(truth)
    # The stated exception: nothing where the windows overlap, from 50 to 100.
    pixels[:, 50:100] = 0
    pixels[10:20, 10:20] = 1
    assert len(stitch(seen([detection(mask_to_rle(pixels))], image, tiles), image, tiles)) == 2


@dataclass(frozen=True)
class Straddling:
    """Objects that lie across edges of windows, and what a model makes of them."""

    truth: list[Mask]
    found: list[Detection]


def ellipse(
    center: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    rows, columns = np.ogrid[:640, :640]
    y, x = center
    inside: npt.NDArray[np.bool_] = ((rows - y) / radii[0]) ** 2 + (
        (columns - x) / radii[1]
    ) ** 2 <= 1
    return inside


def straddling(seed: int, *, count: int) -> Straddling:
    """Ellipses on seams, each detected in every window with an outline of its own."""
    rng = np.random.default_rng(seed)
    image, tiles = Image(1, "any.png", 640, 640), Tiles(128, 0.25)
    windows = tiles.windows(640, 640)
    edges = sorted({e for w in windows for e in (w.left, w.right)} - {0, 640})
    taken = np.zeros((640, 640), bool)
    truth: list[Mask] = []
    while len(truth) < count:
        radii, center = rng.uniform(5, 40, 2), rng.uniform(0, 640, 2)
        center[rng.integers(2)] = rng.choice(edges) + rng.uniform(-0.9, 0.9) * radii.min()
        mask = ellipse(center, radii)
        if mask.any() and not (mask & taken).any():
            # Three pixels apart: outlines that vary must not make two objects one.
            taken |= ellipse(center, radii + 3)
            truth.append(mask.astype(np.uint8))
    in_windows: InWindows = []
    for window in windows:
        own = []
        for mask in truth:
            part = mask[window.top : window.bottom, window.left : window.right]
            if part.sum() < 6:  # a model misses slivers
                continue
            # One pixel more or less all around, or a shift of one.
            changed = [
                part,
                ndimage.binary_dilation(part),
                ndimage.binary_erosion(part, border_value=1),
                ndimage.shift(part, rng.integers(-1, 2, 2), order=0),
            ][rng.integers(4)]
            if changed.any():
                rle = mask_to_rle(changed)
                own.append(detection(rle, score=float(rng.uniform(0.2, 1))))
        in_windows.append((window, own))
    return Straddling(truth, stitch(in_windows, image, tiles))


def test_on_500_objects_across_seams_none_is_double_and_none_is_missing() -> None:
    number = 0
    for seed in range(20):
        case = straddling(seed, count=25)
        number += len(case.truth)
        labeled = [mask_to_rle(mask) for mask in case.truth]
        found = [one.rle for one in case.found]
        ious = mask_utils.iou(found, labeled, [0] * len(labeled))
        assert ious.shape == (25, 25)
        assert (ious.max(0) > 0.6).all()  # each object once, and as a whole
        assert ((ious > 0.1).sum(0) == 1).all()
    assert number == 500


def test_the_most_confident_mask_of_those_that_are_whole_is_taken() -> None:
    image, tiles = Image(1, "any.png", 150, 100), Tiles(100, 0.5)
    left, right = tiles.windows(150, 100)

    def square(window: Window, x: int, side: int) -> Rle:
        pixels = np.zeros((100, 150), np.uint8)
        pixels[20 : 20 + side, x : x + side] = 1
        return cut(mask_to_rle(pixels), window)

    whole = [
        (left, [detection(square(left, 60, 20), score=0.4)]),
        (right, [detection(square(right, 60, 22), score=0.8)]),
    ]
    (found,) = stitch(whole, image, tiles)
    assert (found.score, found.bbox_xywh) == (0.8, (60, 20, 22, 22))
    # With an edge of the window through it, a more confident one is only a part.
    cut_one = [
        (left, [detection(square(left, 70, 40), score=0.8)]),
        (right, [detection(square(right, 70, 40), score=0.4)]),
    ]
    (found,) = stitch(cut_one, image, tiles)
    assert (found.score, found.bbox_xywh) == (0.8, (70, 20, 40, 40))


def test_what_one_window_finds_twice_stays_two_and_what_two_windows_find_does_not() -> None:
    image, tiles = Image(1, "any.png", 150, 100), Tiles(100, 0.5)
    left, right = tiles.windows(150, 100)
    pixels = np.zeros((100, 100), np.uint8)
    pixels[20:40, 60:80] = 1
    twice = [detection(mask_to_rle(pixels), score=score) for score in (0.9, 0.3)]
    moved = detection(mask_to_rle(np.roll(pixels, -50, axis=1)), score=0.5)
    assert [d.score for d in stitch([(left, twice)], image, tiles)] == [0.9, 0.3]
    assert [d.score for d in stitch([(left, twice), (right, [moved])], image, tiles)] == [0.9, 0.3]
    assert [d.score for d in stitch([(left, twice[:1]), (right, [moved])], image, tiles)] == [0.9]
    other = replace(moved, category_id=2)
    assert len(stitch([(left, twice[:1]), (right, [other])], image, tiles)) == 2


def rectangle(window: Window, box: tuple[int, int, int, int], score: float = 0.5) -> Detection:
    """A detection in a window: all pixels of a box of the image."""
    x, y, w, h = box
    pixels = np.zeros((window.height, window.width), np.uint8)
    left, top = x - window.left, y - window.top
    pixels[max(top, 0) : max(top + h, 0), max(left, 0) : max(left + w, 0)] = 1
    return detection(mask_to_rle(pixels), score=score)


def test_of_a_cut_piece_that_no_other_window_shows_nothing_is_left() -> None:
    image, tiles = Image(1, "any.png", 1792, 1024), Tiles(1024, 0.25)
    left, right = tiles.windows(image.width, image.height)
    in_windows = [(left, [rectangle(left, (1014, 500, 10, 12))]), (right, [])]
    assert stitch(in_windows, image, tiles) == []


@pytest.mark.parametrize(
    ("box", "is_left_out"),
    [
        ((114, 0, 8, 20), False),  # cut at the top, and near the right edge, but 6 pixels away
        ((114, 8, 8, 20), False),
        ((114, 8, 11, 20), True),  # 3 pixels away: perhaps cut
        ((111, 8, 17, 20), False),  # cut, and reaches further than half of the overlap
        ((50, 0, 8, 15), True),
        ((50, 0, 8, 20), False),
    ],
)
def test_what_is_left_out_is_cut_by_the_edge_that_it_lies_at(
    box: tuple[int, int, int, int], is_left_out: bool
) -> None:
    image, tiles = Image(1, "any.png", 224, 224), Tiles(128, 0.25)
    x, y, w, h = box
    window = tiles.windows(image.width, image.height)[2]
    assert (window.left, window.top) == (0, 96)
    found = stitch([(window, [rectangle(window, (x, y + 96, w, h))])], image, tiles)
    assert len(found) == (not is_left_out)


def boxed(window: Window, box: tuple[float, float, float, float], score: float) -> Detection:
    """A detection in a window: a box of the image, and a mask without a pixel."""
    x, y, w, h = box
    empty = mask_to_rle(np.zeros((window.height, window.width)))
    found = detection(empty, score=score)
    return replace(found, bbox_xywh=(x - window.left, y - window.top, w, h))


def test_detections_without_a_mask_are_joined_by_their_boxes() -> None:
    image, tiles = Image(1, "any.png", 150, 100), Tiles(100, 0.5)
    left, right = tiles.windows(150, 100)
    same = [
        (left, [boxed(left, (60.5, 20, 20, 20), 0.4)]),
        (right, [boxed(right, (61, 20.5, 20, 20), 0.8)]),
    ]
    (found,) = stitch(same, image, tiles)
    assert (found.score, found.bbox_xywh) == (0.8, (61, 20.5, 20, 20))
    assert not rle_area(found.rle)
    # Cut by the edges of both windows, it is as large as both parts together.
    parts = [
        (left, [boxed(left, (40, 20, 60, 20), 0.4)]),
        (right, [boxed(right, (50, 20, 60, 20), 0.8)]),
    ]
    (found,) = stitch(parts, image, tiles)
    assert (found.score, found.bbox_xywh) == (0.8, (40, 20, 70, 20))
    assert found.rle == mask_to_rle(np.zeros((100, 150)))
    other = [same[0], (right, [boxed(right, (75, 20, 20, 20), 0.8)])]
    assert len(stitch(other, image, tiles)) == 2


def test_of_a_class_the_most_confident_detections_are_stitched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segtune.dataset.stitching.MAX_DETECTIONS", 3)
    image, tiles = Image(1, "any.png", 150, 100), Tiles(100, 0.5)
    squares = []
    for place in range(10):
        pixels = np.zeros((100, 100), np.uint8)
        pixels[10 * place : 10 * place + 5, 10:15] = 1
        squares.append(detection(mask_to_rle(pixels), score=(place + 1) / 10))
    other = replace(squares[0], category_id=2)
    left, right = tiles.windows(150, 100)
    found = stitch([(left, [*squares[::2], other]), (right, squares[1::2])], image, tiles)
    assert [(d.category_id, d.score) for d in found] == [(1, 1.0), (1, 0.9), (1, 0.8), (2, 0.1)]


def test_the_masks_of_a_stitched_image_have_its_size() -> None:
    image, tiles = Image(1, "any.png", 90, 70), Tiles(40, 0.25)
    pixels = np.zeros((70, 90), np.uint8)
    pixels[5:60, 5:85] = 1
    (found,) = stitch(seen([detection(mask_to_rle(pixels))], image, tiles), image, tiles)
    assert (segmentation_to_mask(found.rle, 70, 90) == pixels).all()
    assert stitch([], image, tiles) == []
