"""Outlines on images: where they are, and in which color."""

from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from segtune.dataset.coco import Annotation, Category, Image, Split
from segtune.dataset.masks import mask_to_rle
from segtune.reports.drawing import COLORS, TILE, contact_sheet, save_sheet, spread_out

SIDE = 160  # half of a tile


def split(folder: Path) -> Split:
    images = []
    for number in range(1, 6):
        name = f"{number}.png"
        PilImage.new("RGB", (SIDE, SIDE), "black").save(folder / name)
        images.append(Image(number, name, SIDE, SIDE))
    box = Annotation(1, 1, 1, (20.0, 20.0, 40.0, 40.0), 1600.0, None, 0)
    categories = (Category(1, "disc", "disc"), Category(2, "square", "square"))
    annotations = {image.id: ((box,) if image.id == 1 else ()) for image in images}
    return Split("valid", folder, categories, tuple(images), annotations)


def found(score: float) -> dict[str, object]:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[100:140, 80:150] = 1
    segmentation = mask_to_rle(mask.astype(bool))
    box = [80, 100, 70, 40]
    return {
        "image_id": 1,
        "category_id": 2,
        "bbox": box,
        "segmentation": segmentation,
        "score": score,
    }


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[n : n + 2], 16) for n in (1, 3, 5))


def test_truth_is_white_and_detections_have_the_color_of_their_class(tmp_path: Path) -> None:
    here = split(tmp_path)
    sheet = contact_sheet(here, here.images, [found(0.9)])
    assert sheet.shape == (2 * TILE, 4 * TILE, 3)
    assert tuple(sheet[80, 40]) == (255, 255, 255)  # left side of the box, twice as large
    assert tuple(sheet[279, 250]) == rgb(COLORS[1])  # lower edge of the mask
    assert not sheet[240:260, 200:240].any()  # inside nothing is painted over
    assert not sheet[:TILE, TILE:].any()  # the other images are black


def test_doubtful_detections_are_not_drawn(tmp_path: Path) -> None:
    here = split(tmp_path)
    sheet = contact_sheet(here, here.images[:1], [found(0.49)])
    assert not sheet[200:290].any()


def test_images_are_taken_from_the_whole_split(tmp_path: Path) -> None:
    images = split(tmp_path).images
    assert [image.id for image in spread_out(images, 3)] == [1, 3, 5]
    assert spread_out(images, 8) == list(images)


def test_a_sheet_is_written_as_a_jpeg(tmp_path: Path) -> None:
    here = split(tmp_path)
    save_sheet(tmp_path / "sheets" / "1.jpg", contact_sheet(here, here.images, []))
    with PilImage.open(tmp_path / "sheets" / "1.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (4 * TILE, 2 * TILE))
