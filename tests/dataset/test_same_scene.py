"""Images of one scene agree in many places, also after augmentation; different ones in none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from benchmarks.validation_scan import scene
from segtune.core.errors import DatasetError
from segtune.dataset.perceptual_hash import ORIENTATIONS
from segtune.dataset.same_scene import agreement

SIDE = 128  # pixels, twice those that are compared
SCENE = scene(0, SIDE)
TURNS = [
    (),
    (Image.Transpose.FLIP_LEFT_RIGHT,),
    (Image.Transpose.ROTATE_90,),
    (Image.Transpose.ROTATE_90, Image.Transpose.FLIP_LEFT_RIGHT),
    (Image.Transpose.ROTATE_180,),
    (Image.Transpose.ROTATE_180, Image.Transpose.FLIP_LEFT_RIGHT),
    (Image.Transpose.ROTATE_270,),
    (Image.Transpose.ROTATE_270, Image.Transpose.FLIP_LEFT_RIGHT),
]


def agreeing(
    folder: Path, one: Image.Image, other: Image.Image = SCENE, orientation: int = 0
) -> float:
    one.save(folder / "one.png")
    other.save(folder / "other.png")
    return agreement(folder / "one.png", folder / "other.png", orientation)


def shifted(x: int, y: int) -> Image.Image:
    return ImageChops.offset(SCENE, x, y)


def test_an_image_agrees_with_itself_and_not_with_another(tmp_path: Path) -> None:
    assert agreeing(tmp_path, SCENE) == 1
    assert max(agreeing(tmp_path, scene(seed, SIDE)) for seed in range(1, 20)) < 0.05


@pytest.mark.parametrize("orientation", range(len(ORIENTATIONS)))
def test_orientations_are_those_of_the_search(tmp_path: Path, orientation: int) -> None:
    turned = SCENE
    for method in TURNS[orientation]:
        turned = turned.transpose(method)
    assert agreeing(tmp_path, SCENE, turned, orientation) > 0.95
    assert agreeing(tmp_path, SCENE, turned, (orientation + 1) % 8) < 0.1


@pytest.mark.parametrize(("x", "y"), [(8, 0), (0, -8), (-4, 6), (-8, 8)])
def test_shifts_up_to_a_sixteenth_are_undone(tmp_path: Path, x: int, y: int) -> None:
    assert agreeing(tmp_path, shifted(x, y)) > 0.95


def test_larger_shifts_are_not(tmp_path: Path) -> None:
    assert agreeing(tmp_path, shifted(14, 0)) < 0.2


def test_places_beside_a_changed_one_agree_still(tmp_path: Path) -> None:
    changed = SCENE.copy()
    changed.paste(scene(1, SIDE).crop((0, 0, SIDE, SIDE // 2)), (0, 0))
    assert 0.35 < agreeing(tmp_path, changed) < 0.65


def test_brightness_does_not_matter(tmp_path: Path) -> None:
    assert agreeing(tmp_path, SCENE.point(lambda value: round(0.6 * value + 20))) > 0.95


@pytest.mark.parametrize(("places", "expected"), [(7, 0), (8, 1)])
def test_a_few_places_prove_nothing(tmp_path: Path, places: int, expected: int) -> None:
    pixels = np.full((64, 64), 90, np.uint8)
    noise = np.random.default_rng(0).integers(60, 120, (8, 8))
    for n in range(places):
        row, column = 4 + 16 * (n // 3), 4 + 16 * (n % 3)
        pixels[row : row + 8, column : column + 8] = noise
    image = Image.fromarray(pixels)
    assert agreeing(tmp_path, image, image) == expected


def test_plain_places_do_not_count(tmp_path: Path) -> None:
    faint = np.random.default_rng(0).integers(89, 92, (64, 64)).astype(np.uint8)
    assert agreeing(tmp_path, Image.fromarray(faint), Image.fromarray(faint)) == 0
    clear, other = (
        np.random.default_rng(seed).integers(60, 120, (64, 64)).astype(np.uint8) for seed in (1, 2)
    )
    clear[:, :36] = other[:, :36] = 90
    assert agreeing(tmp_path, Image.fromarray(clear), Image.fromarray(clear)) == 1
    # What has structure in one image only does not agree.
    other[:, 36:] = 90
    other[4:36, 36:60] = clear[4:36, 36:60]
    part = agreeing(tmp_path, Image.fromarray(other), Image.fromarray(clear))
    assert part == pytest.approx(4 / 7)


def test_a_file_that_has_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="gone"):
        agreement(tmp_path / "gone.png", tmp_path / "gone.png", 0)
