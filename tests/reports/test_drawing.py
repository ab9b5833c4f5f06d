"""Drawing: outlines, labels, crops and sheets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from segtune.dataset.coco import Annotation, Category, Image, Split
from segtune.dataset.detections import Detection, Detections
from segtune.dataset.masks import mask_to_rle
from segtune.reports.drawing import (
    COLORS,
    THUMBNAIL,
    TILE,
    Label,
    contact_sheet,
    crop,
    save_sheet,
    write_labels,
)

SIDE = 160  # half of a tile


def split(folder: Path) -> Split:
    images = []
    for number in range(1, 6):
        name = f"{number}.png"
        PilImage.new("RGB", (SIDE, SIDE), "black").save(folder / name)
        images.append(Image(number, name, SIDE, SIDE))
    box = Annotation(
        id=1,
        image_id=1,
        category_id=1,
        bbox_xywh=(20.0, 20.0, 40.0, 40.0),
        area=1600.0,
        segmentation=None,
        iscrowd=0,
    )
    categories = (Category(1, "disc", "disc"), Category(2, "square", "square"))
    annotations: dict[int, tuple[Annotation, ...]] = {image.id: () for image in images}
    annotations[1] = (box,)
    return Split("valid", folder, categories, tuple(images), annotations)


def detections(score: float) -> Detections:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[100:140, 80:150] = True
    found = Detection(
        image_id=1, category_id=2, score=score, bbox_xywh=(80, 100, 70, 40), rle=mask_to_rle(mask)
    )
    return Detections([found])


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[n : n + 2], 16) for n in (1, 3, 5))


def test_ground_truth_is_white_and_detections_have_the_color_of_their_class(tmp_path: Path) -> None:
    here = split(tmp_path)
    sheet = contact_sheet(here, here.images, detections(0.9))
    assert sheet.shape == (2 * TILE, 4 * TILE, 3)
    assert tuple(sheet[80, 40]) == (255, 255, 255)  # left side of the box, twice as large
    assert tuple(sheet[279, 250]) == rgb(COLORS[1])  # lower edge of the mask
    assert not sheet[240:260, 200:240].any()  # the inside is not covered
    assert not sheet[:TILE, TILE:].any()  # the other images are black


def test_a_sheet_is_written_as_a_jpeg(tmp_path: Path) -> None:
    here = split(tmp_path)
    sheet = contact_sheet(here, here.images, Detections())
    save_sheet(tmp_path / "sheets" / "1.jpg", sheet)
    with PilImage.open(tmp_path / "sheets" / "1.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (4 * TILE, 2 * TILE))


def test_an_image_is_drawn_the_way_its_exif_record_turns_it(tmp_path: Path) -> None:
    here = split(tmp_path)
    stored = PilImage.new("RGB", (40, 80), "black")
    stored.paste("white", (0, 0, 40, 40))  # the upper half, which EXIF turns to the right
    exif = PilImage.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "1.png", exif=exif)
    image = replace(here.images[0], width=80, height=40)
    turned = replace(here, images=(image,), annotations={1: ()})
    sheet = contact_sheet(turned, [image], Detections())
    assert sheet[80, 240].min() > 200
    assert sheet[80, 80].max() < 50
    assert not sheet[TILE // 2 + 2 : TILE].any()


def test_labels_do_not_overlap(tmp_path: Path) -> None:
    image = split(tmp_path).images[0]
    first = Label((20.0, 40.0, 50.0, 50.0), "first", "#ff0000")
    for second, is_written in (
        (Label((22.0, 45.0, 50.0, 50.0), "second", "#00ff00"), False),
        (Label((22.0, 90.0, 50.0, 50.0), "second", "#00ff00"), True),
    ):
        canvas = PilImage.new("RGB", (SIDE, SIDE), "gray")
        write_labels(canvas, image, [first, second])
        pixels = np.asarray(canvas).astype(int)
        assert (pixels[..., 0] - pixels[..., 1] > 100).any()
        assert (pixels[..., 1] - pixels[..., 0] > 100).any() == is_written


def test_a_crop_shows_the_surroundings(tmp_path: Path) -> None:
    here = split(tmp_path)
    # From 130 to 160 and from 0 to 30: the margin ends where the image does.
    piece = crop(here, here.images[0], (140.0, 10.0, 20.0, 10.0))
    assert piece.size == (THUMBNAIL, THUMBNAIL)


@pytest.mark.parametrize("place", [50.4, SIDE - 0.1, 0.0])
def test_a_box_of_less_than_a_pixel_can_be_shown(tmp_path: Path, place: float) -> None:
    here = split(tmp_path)
    assert min(crop(here, here.images[0], (place, place, 0.05, 0.05)).size) > 0
