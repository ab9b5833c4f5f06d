"""The draw command: labels on their images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from segtune.dataset.coco import Category, Image, Split
from segtune.dataset.labels import write_labels
from segtune.dataset.masks import mask_to_rle
from segtune.draw import main

SIDE = 120


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two gray images, and a label in the left half of the second."""
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    images = (Image(1, "a.png", SIDE, SIDE), Image(2, "deep/b.png", SIDE, SIDE))
    for image in images:
        PilImage.new("RGB", (SIDE, SIDE), "#808080").save(tmp_path / "photos" / image.file_name)
    split = Split("photos", tmp_path, (Category(1, "crack", "crack"),), images, {1: (), 2: ()})
    mask = np.zeros((SIDE, SIDE), bool)
    mask[40:110, 10:50] = True
    record: dict[str, Any] = {"image_id": 2, "category_id": 1, "score": 0.9}
    write_labels(tmp_path / "labels.json", split, [{**record, "segmentation": mask_to_rle(mask)}])
    return tmp_path / "photos"


def draw(photos: Path, out: Path, *more: str) -> None:
    labels = str(photos.parent / "labels.json")
    main(["--labels", labels, "--images", str(photos), "--out", str(out), *more])


def pixels(path: Path) -> np.ndarray:
    with PilImage.open(path) as image:
        return np.asarray(image).astype(int)


def test_objects_are_drawn_and_the_rest_is_as_it_was(photos: Path, tmp_path: Path) -> None:
    draw(photos, tmp_path / "drawn")
    changed = np.abs(pixels(tmp_path / "drawn" / "deep" / "b.png.jpg") - 128).max(2) > 20
    assert changed[50:100, 15:45].mean() > 0.9  # inside of the mask
    assert changed[20:38, 10:60].any()  # its name
    assert not changed[:, 90:].any()
    assert np.abs(pixels(tmp_path / "drawn" / "a.png.jpg") - 128).max() < 5


def test_large_images_are_reduced(photos: Path, tmp_path: Path) -> None:
    draw(photos, tmp_path / "drawn", "--side", "60")
    assert pixels(tmp_path / "drawn" / "a.png.jpg").shape == (60, 60, 3)


@pytest.mark.parametrize("place", ["", "drawn", "deep"])
def test_nothing_is_drawn_among_the_images(
    photos: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    before = sorted(photos.rglob("*"))
    with pytest.raises(SystemExit) as raised:
        draw(photos, photos / place)
    assert raised.value.code == 1
    assert "is in the folder of the images" in capsys.readouterr().err
    assert sorted(photos.rglob("*")) == before


def test_a_missing_image_is_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "deep" / "b.png").unlink()
    with pytest.raises(SystemExit):
        draw(photos, tmp_path / "drawn")
    (line,) = capsys.readouterr().err.splitlines()
    assert "b.png" in line
