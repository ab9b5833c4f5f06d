"""Thumbnails of findings: masks and boxes where they are, and what cannot be drawn left out."""

import base64
import io
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as PilImage

from segtune.dataset.coco import Annotation, Category, Image, Split
from segtune.dataset.findings import image_place
from segtune.dataset.masks import BoxXywh, Segmentation, mask_to_rle
from segtune.reports.drawing import THUMBNAIL
from segtune.reports.finding_thumbnails import images_by_name, thumbnails

SIDE = 144  # pixels of the image, half of the thumbnail's
BOX = (40.0, 30.0, 60.0, 60.0)
LOWER_LEFT = [[40.0, 30.0, 40.0, 90.0, 100.0, 90.0]]  # half of the box
INSIDE, OUTSIDE, EDGE = (55, 75), (85, 45), (40, 60)  # of the mask and within the box, of both
GRAY = 100


def split_of(
    folder: Path,
    *objects: tuple[BoxXywh, Segmentation | None],
    factor: int = 1,
    suffix: str = "png",
) -> Split:
    """One gray image with objects, `factor` times as large as in its record."""
    size = (factor * SIDE, factor * SIDE)
    PilImage.new("RGB", size, (GRAY, GRAY, GRAY)).save(folder / f"1.{suffix}")
    annotations = tuple(
        Annotation(n, 1, 1, box, 1.0, segmentation, 0)
        for n, (box, segmentation) in enumerate(objects, start=1)
    )
    image = Image(1, f"1.{suffix}", SIDE, SIDE)
    return Split("train", folder, (Category(1, "disc", "disc"),), (image,), {1: annotations})


def drawn(split: Split) -> tuple[npt.NDArray[np.int64], str]:
    """The thumbnail of a place with all objects of the first image, and its description."""
    place = image_place(split, split.images[0], "", split.objects)
    (thumbnail,) = thumbnails(place, images_by_name([split]))
    content = base64.b64decode(thumbnail.uri.partition(",")[2])
    with PilImage.open(io.BytesIO(content)) as image:
        assert max(image.size) == THUMBNAIL
        return np.asarray(image).astype(int), thumbnail.description


def is_yellow(pixels: npt.NDArray[np.int64], place: tuple[int, int]) -> bool:
    x, y = (2 * value for value in place)
    red, green, blue = pixels[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(0)
    return bool(min(red, green) - blue > 25)


def in_pixels(segmentation: list[list[float]]) -> Segmentation:
    """The same triangle as RLE."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    x, y, w, h = BOX
    inside = (columns >= x) & (rows < y + h) & (columns - x < rows - y)
    return mask_to_rle(inside & (columns < x + w))


@pytest.mark.parametrize(
    "segmentation", [LOWER_LEFT, in_pixels(LOWER_LEFT)], ids=["polygon", "rle"]
)
def test_a_mask_is_filled_within_its_box(tmp_path: Path, segmentation: Segmentation) -> None:
    pixels, description = drawn(split_of(tmp_path, (BOX, segmentation)))
    assert is_yellow(pixels, INSIDE) and is_yellow(pixels, EDGE)
    assert not is_yellow(pixels, OUTSIDE)
    assert is_yellow(pixels, (99, 45))  # the box
    assert description == "train: 1.png, 1 object outlined"


@pytest.mark.parametrize(
    "broken",
    [
        [[1, 1, 2, 2]],
        [["a"] * 6],
        [[1, 1, 1, 1, 1, 1]],
        {"size": [SIDE, SIDE + 1], "counts": [0, SIDE * SIDE]},
        {"size": [SIDE, SIDE], "counts": [0, 10 * SIDE * SIDE]},
        {"size": [SIDE, SIDE]},
        None,
        [],
    ],
)
def test_of_an_object_with_a_broken_mask_the_box_is_drawn(
    tmp_path: Path, broken: Segmentation | None
) -> None:
    pixels, description = drawn(split_of(tmp_path, (BOX, broken)))
    assert is_yellow(pixels, (99, 45))
    assert not is_yellow(pixels, INSIDE)
    assert description.endswith("1 object outlined")


def test_an_object_without_a_usable_box_is_drawn_by_its_mask(tmp_path: Path) -> None:
    nowhere = (math.nan, 0.0, 5.0, 5.0)
    pixels, description = drawn(split_of(tmp_path, (nowhere, LOWER_LEFT), (nowhere, None)))
    assert is_yellow(pixels, INSIDE) and not is_yellow(pixels, (99, 45))
    assert description.endswith("1 object outlined")


def test_a_mask_elsewhere_than_its_box_is_within_the_thumbnail(tmp_path: Path) -> None:
    # Four times as large, so that a thumbnail shows less than the image.
    large = [[4 * value for value in LOWER_LEFT[0]]]
    split = split_of(tmp_path, ((0.0, 0.0, 0.0, 0.0), large), factor=4)
    image = Image(1, "1.png", 4 * SIDE, 4 * SIDE)
    pixels, _ = drawn(Split("train", tmp_path, split.categories, (image,), split.annotations))
    assert is_yellow(pixels, (1, 1))
    assert (np.minimum(pixels[..., 0], pixels[..., 1]) - pixels[..., 2] > 25).mean() > 0.05


@pytest.mark.parametrize("empty", [False, True])
def test_the_part_of_a_large_image_that_shows_an_object(tmp_path: Path, empty: bool) -> None:
    corners = [[300.0, 300.0, 300.0, 360.0, 360.0, 360.0]]
    objects = ((300.0, 300.0, 60.0, 60.0), [[1.0] * 6] if empty else corners)
    split = split_of(tmp_path, objects, factor=4)
    image = Image(1, "1.png", 4 * SIDE, 4 * SIDE)
    pixels, _ = drawn(Split("train", tmp_path, split.categories, (image,), split.annotations))
    # From 240 to 420 pixels, 1.6 times as large.
    assert is_yellow(pixels, (48, 72))  # left side of the box
    assert is_yellow(pixels, (60, 84)) != empty
    assert not is_yellow(pixels, (84, 60))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_masks_fit_an_image_of_another_size_than_recorded(tmp_path: Path, suffix: str) -> None:
    pixels, _ = drawn(split_of(tmp_path, (BOX, LOWER_LEFT), factor=16, suffix=suffix))
    yellow = (np.minimum(pixels[..., 0], pixels[..., 1]) - pixels[..., 2] > 25).nonzero()
    # Of a triangle in the lower left of its box, left of and below the center of the box.
    rows, columns = (float(values.mean()) * SIDE / THUMBNAIL for values in yellow)
    assert columns < 65 and rows > 65


def test_objects_of_every_record_of_a_file_are_drawn(tmp_path: Path) -> None:
    split = split_of(tmp_path, (BOX, LOWER_LEFT))
    again = Image(2, "1.png", SIDE, SIDE)
    images = (again, *split.images)
    twice = Split("train", tmp_path, split.categories, images, {**split.annotations, 2: ()})
    pixels, _ = drawn(twice)
    assert is_yellow(pixels, INSIDE)
