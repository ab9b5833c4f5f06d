"""Labels that are probably missing: named only between images that show almost the same."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests.clean_dataset import edit, write_clean_dataset, write_manifest
from tests.validate_runs import found_in, page_of

RULE = "object-missing-in-burst"
DISC, PLATE = 1, 2


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_clean_dataset(tmp_path)


def save_frame(coco: Path, split: str, number: int, marks: int) -> None:
    """The first image of a split again, with marks that have come into it."""
    with Image.open(coco.parent / split / "1.png") as image:
        later = image.copy()
    for place in range(marks):
        left = 2 + 12 * place
        ImageDraw.Draw(later).ellipse((left, 62, left + 7, 69), fill="white", outline="black")
    later.save(coco.parent / split / f"{number}.png")
    write_manifest(coco)


def unlabel(coco: Path, split: str, image: int, *classes: int) -> None:
    edit(
        coco,
        split,
        lambda v: v.update(
            annotations=[
                a
                for a in v["annotations"]
                if a["image_id"] != image or a["category_id"] not in classes
            ]
        ),
    )


def places(coco: Path, **limits: float) -> list[dict[str, Any]]:
    finding = found_in(coco, limits=limits).get(RULE)
    return finding["examples"] if finding else []


def pairs(coco: Path, **limits: float) -> list[tuple[str, str]]:
    return [(place["image"], place["other_image"]) for place in places(coco, **limits)]


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize(("without", "having"), [(1, 2), (2, 1)])
def test_an_image_without_a_class_is_named_with_one_that_has_it(
    coco: Path, split: str, without: int, having: int
) -> None:
    save_frame(coco, split, 2, 1)
    unlabel(coco, split, without, PLATE)
    (place,) = places(coco)
    image, other = f"{split}/{without}.png", f"{split}/{having}.png"
    assert place["text"] == f"{split}: {image}, no plate, but {other} has some"
    assert (place["split"], place["image"]) == (split, image)
    assert (place["other_split"], place["other_image"]) == (split, other)
    assert place["other_object_ids"] == [2 * having]
    assert place["object_ids"] == []


def test_an_image_without_objects_lacks_every_class_of_its_burst(coco: Path) -> None:
    save_frame(coco, "train", 2, 1)
    unlabel(coco, "train", 2, DISC, PLATE)
    assert [place["text"].split(", ")[1] for place in places(coco)] == ["no disc", "no plate"]


def test_what_all_images_of_a_burst_lack_is_not_missing(coco: Path) -> None:
    save_frame(coco, "train", 2, 1)
    unlabel(coco, "train", 1, PLATE)
    unlabel(coco, "train", 2, PLATE)
    assert not places(coco)


def test_different_images_may_show_different_classes(coco: Path) -> None:
    unlabel(coco, "train", 1, PLATE)
    unlabel(coco, "train", 2, DISC)
    assert not places(coco)


def test_images_of_another_split_are_not_of_the_burst(coco: Path) -> None:
    shutil.copy(coco.parent / "train/1.png", coco.parent / "valid/1.png")
    write_manifest(coco)
    unlabel(coco, "valid", 1, PLATE)
    assert not places(coco)


def test_a_burst_reaches_from_image_to_image(coco: Path) -> None:
    limits = {"likely_copy_similarity": 0.955}
    save_frame(coco, "train", 2, 7)
    unlabel(coco, "train", 2, PLATE)
    assert not pairs(coco, **limits)
    for number, marks in ((3, 1), (4, 2)):
        save_frame(coco, "train", number, marks)
        unlabel(coco, "train", number, PLATE)
    expected = [(f"train/{number}.png", "train/1.png") for number in (2, 3, 4)]
    assert sorted(pairs(coco, **limits)) == expected


def test_the_most_similar_image_that_has_the_class_is_shown(coco: Path) -> None:
    for number, marks in ((2, 4), (3, 3), (4, 1)):
        save_frame(coco, "train", number, marks)
    unlabel(coco, "train", 3, PLATE)
    assert pairs(coco) == [("train/3.png", "train/2.png")]
    unlabel(coco, "train", 2, PLATE)
    assert ("train/3.png", "train/4.png") in pairs(coco)


def test_identical_bytes_are_a_burst_however_plain(coco: Path) -> None:
    for number in (1, 2):
        Image.new("RGB", (96, 72), (90, 90, 90)).save(coco.parent / f"train/{number}.png")
    write_manifest(coco)
    unlabel(coco, "train", 2, PLATE)
    assert pairs(coco) == [("train/2.png", "train/1.png")]


def test_the_similarity_of_a_burst_is_a_setting(coco: Path) -> None:
    save_frame(coco, "train", 2, 1)
    unlabel(coco, "train", 2, PLATE)
    assert not pairs(coco, likely_copy_similarity=0.999)
    assert pairs(coco, likely_copy_similarity=0.9)


def test_a_split_that_stands_in_for_another_is_looked_at_once(coco: Path) -> None:
    save_frame(coco, "valid", 2, 1)
    unlabel(coco, "valid", 2, PLATE)
    shutil.copy(coco / "valid.json", coco / "test.json")
    assert [place["split"] for place in places(coco)] == ["valid"]


def test_the_page_outlines_the_object_in_the_other_image(coco: Path) -> None:
    save_frame(coco, "train", 2, 1)
    unlabel(coco, "train", 2, PLATE)
    assert places(coco)
    page = page_of(coco)
    assert 'alt="train: train/2.png"' in page
    assert 'alt="train: train/1.png, 1 object outlined"' in page
