"""Every rule finds what it is about, and nothing else turns up."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from segtune.checks.rules import RULES
from tests.clean_dataset import (
    HEIGHT,
    WIDTH,
    Values,
    edit,
    edit_all,
    write_clean_dataset,
    write_manifest,
)
from tests.validate_runs import found_in, report_of, validate

Defect = Callable[[Path], object]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_clean_dataset(tmp_path)


def test_a_clean_dataset_passes_with_its_counts(coco: Path) -> None:
    report = validate(coco)
    assert report["findings"] == report["overridden"] == []
    assert report["splits"]["train"] == {
        "images": 12,
        "images_without_objects": 0,
        "objects": 24,
        "box_only_objects": 0,
        "per_class": {"disc": 12, "plate": 12},
    }
    assert [sum(h["counts"]["train"]) for h in report["histograms"]] == [24, 24, 12]


def in_split(name: str, change: Callable[[Values], object]) -> Defect:
    return lambda coco: edit(coco, name, change)


def everywhere(change: Callable[[Values], object]) -> Defect:
    return lambda coco: edit_all(coco, change)


def prompted(text: str) -> Defect:
    """The first class, prompted with a text."""
    return everywhere(lambda v: v["categories"][0].update(prompt=text))


def first(**changes: Any) -> Defect:
    """The first object of train, changed."""
    return in_split("train", lambda v: v["annotations"][0].update(changes))


def rename_first_image(split: str) -> Defect:
    return in_split(split, lambda v: v["images"][0].update(file_name="train/2.png"))


def renumber_first_image(values: Values) -> None:
    old, values["images"][0]["id"] = values["images"][0]["id"], 0
    for a in values["annotations"]:
        if a["image_id"] == old:
            a["image_id"] = 0


def rle(size: list[int], counts: Any) -> Defect:
    return first(segmentation={"size": size, "counts": counts})


def without_class(number: int, keep: int = 0) -> Callable[[Values], object]:
    """A change that leaves only so many objects of a class."""

    def change(values: Values) -> None:
        of_class = [a for a in values["annotations"] if a["category_id"] == number]
        removed = {a["id"] for a in of_class[keep:]}
        values["annotations"] = [a for a in values["annotations"] if a["id"] not in removed]

    return change


def remove_class(values: Values) -> None:
    without_class(2)(values)
    values["categories"].pop()


def box_only(values: Values) -> None:
    for a in values["annotations"]:
        if a["category_id"] == 1:
            a["segmentation"] = []


def add_objects(values: Values) -> None:
    """Thirteen of a class in an image, for the 12 queries of the tiny model."""
    image = values["images"][0]["id"]
    values["annotations"] = [a for a in values["annotations"] if a["image_id"] != image]
    for place in range(13):
        box = [7 * place + 1, 5, 6, 6]
        record = {"image_id": image, "category_id": 1, "bbox": box, "area": 36, "iscrowd": 0}
        values["annotations"].append({**record, "id": 100 + place, "segmentation": []})


def add_again(**changes: Any) -> Callable[[Values], object]:
    """A change that adds the first object once more."""
    return lambda v: v["annotations"].append({**v["annotations"][0], "id": 999, **changes})


def copy_image(coco: Path) -> None:
    root = coco.parent
    shutil.copy(root / "train/1.png", root / "test/2.png")
    write_manifest(coco)


def saved(
    change: Callable[[Image.Image], Image.Image] = Image.Image.copy,
    to: str = "train/1.png",
    **options: Any,
) -> Defect:
    """The first image of train, changed and saved in its own place or that of another one."""

    def plant(coco: Path) -> None:
        with Image.open(coco.parent / "train/1.png") as image:
            changed = change(image)
        changed.save(coco.parent / to, **{"format": "PNG", **options})
        write_manifest(coco)

    return plant


def converted(mode: str) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.convert(mode)


def content(change: Callable[[bytes], bytes]) -> Defect:
    """The bytes of the first image of train, changed before it was converted."""

    def plant(coco: Path) -> None:
        path = coco.parent / "train/1.png"
        path.write_bytes(change(path.read_bytes()))
        write_manifest(coco)

    return plant


def transparent(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    return image


def deep(image: Image.Image) -> Image.Image:
    gray = np.asarray(image.convert("L"), np.uint16) * 257
    return Image.fromarray(gray)


def dark(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L"), np.uint16))


def animated(coco: Path) -> None:
    path = coco.parent / "train/1.png"
    with Image.open(path) as image, Image.open(coco.parent / "train/2.png") as second:
        image.save(path, save_all=True, append_images=[second.copy()])
    write_manifest(coco)


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def brightened(image: Image.Image) -> Image.Image:
    return image.point(lambda value: min(255, round(1.15 * value)))


def similar(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 45, (9, 12, 3))
    pattern = Image.fromarray((noise + 128).clip(0, 255).astype(np.uint8)).resize(image.size)
    return Image.blend(image, pattern, 0.36)


def frame(image: Image.Image) -> Image.Image:
    """The image some moments later: something has come into it."""
    later = image.copy()
    ImageDraw.Draw(later).ellipse((80, 60, 86, 66), fill="white", outline="black")
    return later


def without_image_class(image_id: int, number: int) -> Callable[[Values], object]:
    """A change that removes the objects of a class in an image."""

    def change(values: Values) -> None:
        values["annotations"] = [
            a
            for a in values["annotations"]
            if (a["image_id"], a["category_id"]) != (image_id, number)
        ]

    return change


def named_after_one_original(coco: Path) -> None:
    root = coco.parent
    for split, digit in (("train", "1"), ("valid", "2")):
        name = f"{split}/scene_jpg.rf.{digit * 32}.png"
        (root / f"{split}/1.png").rename(root / name)
        edit(coco, split, lambda v, name=name: v["images"][0].update(file_name=name))
    write_manifest(coco)


def append_byte(coco: Path) -> None:
    with (coco.parent / "train/1.png").open("ab") as file:
        file.write(b"x")


def filled_box(values: Values) -> None:
    x, y, w, h = (round(value) for value in values["annotations"][0]["bbox"])
    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
    values["annotations"][0].update(segmentation=[outline], bbox=[x, y, w, h], area=w * h)


def unlabeled(values: Values) -> None:
    image = values["images"][-1]["id"]
    values["annotations"] = [a for a in values["annotations"] if a["image_id"] != image]


def frame_without_a_label(coco: Path) -> None:
    saved(frame, to="train/2.png")(coco)
    edit(coco, "train", without_image_class(2, 1))


DEFECTS: list[tuple[str, Defect]] = [
    ("structure-split-empty", in_split("test", lambda v: v.update(images=[], annotations=[]))),
    ("structure-no-objects", in_split("train", lambda v: v.update(annotations=[]))),
    ("structure-no-objects", in_split("valid", lambda v: v.update(annotations=[]))),
    ("structure-classes-differ", in_split("test", lambda v: v["categories"][0].update(name="x"))),
    ("structure-id-invalid", first(id=0)),
    ("structure-id-invalid", in_split("train", renumber_first_image)),
    ("structure-id-duplicate", first(id=2)),
    ("structure-file-duplicate", rename_first_image("train")),
    ("structure-class-unknown", first(category_id=9)),
    ("structure-box-not-finite", first(bbox=[float("nan"), 5, 9, 9])),
    ("structure-box-not-finite", first(bbox=[5, 5, 9, float("nan")])),
    ("structure-box-empty", first(bbox=[5, 5, 0, 9])),
    ("structure-box-empty", first(bbox=[5, 5, 9, -1])),
    ("structure-box-outside", first(bbox=[WIDTH - 5, 5, 9, 9])),
    ("structure-box-outside", first(bbox=[-1, 5, 9, 9])),
    ("structure-area-invalid", first(area=float("nan"))),
    ("structure-area-invalid", first(area=-1)),
    ("structure-iscrowd-invalid", first(iscrowd=7)),
    ("structure-mask-unreadable", first(segmentation=[["a"] * 6])),
    ("structure-mask-unreadable", first(segmentation=[[1, 1, 2, 2]])),
    ("structure-mask-unreadable", first(segmentation={"size": [HEIGHT, WIDTH]})),
    ("structure-mask-unreadable", first(segmentation={"counts": [1]})),
    ("structure-mask-unreadable", rle([HEIGHT, WIDTH], [9, 10 * WIDTH * HEIGHT])),
    ("structure-mask-unreadable", rle([HEIGHT, WIDTH], "ZZZZ")),
    # As many pixels, in another shape.
    ("structure-mask-size", rle([WIDTH, HEIGHT], [9, WIDTH * HEIGHT - 9])),
    ("structure-mask-empty", rle([HEIGHT, WIDTH], [WIDTH * HEIGHT])),
    ("structure-mask-empty", first(segmentation=[[1, 1, 1, 1, 1, 1]])),
    ("image-missing", lambda coco: (coco.parent / "train/1.png").unlink()),
    ("image-unlisted", in_split("manifest", lambda v: v["images"].pop())),
    ("image-changed", append_byte),
    ("image-format", content(lambda _: b"GIF89a")),
    ("image-damaged", content(lambda data: data[:-2000])),
    ("image-size", in_split("train", lambda v: v["images"][0].update(width=WIDTH + 1))),
    ("image-rotated", saved(exif=orientation(3))),
    ("image-depth", saved(dark)),
    ("image-animated", animated),
    ("image-cmyk", saved(converted("CMYK"), format="JPEG", quality=95)),
    ("image-transparent", saved(transparent)),
    ("image-16-bit", saved(deep)),
    ("image-palette", saved(converted("P"))),
    ("image-suffix", saved(format="JPEG", quality=95)),
    ("copy-identical", copy_image),
    ("copy-identical", rename_first_image("test")),
    ("copy-near", saved(brightened, to="test/2.png")),
    ("copy-likely", saved(similar, to="test/2.png")),
    ("copy-same-source", named_after_one_original),
    ("copy-within", saved(ImageOps.mirror, to="train/2.png")),
    ("copy-unchecked", saved(lambda image: Image.new("RGB", image.size, (90, 90, 90)))),
    ("prompt-empty", prompted(" ")),
    ("prompt-too-long", prompted("green leaf " * 16)),
    ("prompt-duplicate", prompted("Plate ")),
    ("prompt-alike", prompted("plates")),
    ("prompt-contains-class", prompted("a plate with a rim")),
    ("prompt-coordinates", prompted("place 41.40338")),
    ("prompt-digits", prompted("class 2")),
    ("prompt-not-ascii", prompted("café")),
    ("prompt-misspelled", prompted("triangel")),
    ("class-missing-train", in_split("train", without_class(2))),
    ("class-missing-valid", in_split("valid", without_class(2))),
    ("class-missing-test", in_split("test", without_class(2))),
    ("class-unused", everywhere(without_class(2))),
    ("class-few-objects", in_split("train", without_class(2, keep=9))),
    ("class-imbalance", in_split("train", without_class(2, keep=10))),
    ("class-box-only", in_split("train", box_only)),
    ("class-no-negatives", everywhere(remove_class)),
    ("object-crowded", in_split("valid", add_objects)),
    ("object-tiny", first(bbox=[5, 5, 2, 2])),
    ("object-duplicate", in_split("train", add_again())),
    ("object-duplicate", in_split("train", add_again(segmentation=[]))),
    ("object-mask-is-box", in_split("train", filled_box)),
    ("object-none", in_split("train", unlabeled)),
    ("object-missing-in-burst", frame_without_a_label),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "plant"), DEFECTS, ids=[f"{n}-{d[0]}" for n, d in enumerate(DEFECTS)]
)
def test_a_defect_is_found_under_its_own_rule(coco: Path, rule: str, plant: Defect) -> None:
    plant(coco)
    limits = {"max_imbalance": 1.1} if rule == "class-imbalance" else {}
    found = found_in(coco, limits=limits)
    severe = {name for name, finding in found.items() if finding["severity"] != "info"}
    assert rule in found
    assert found[rule]["severity"] == RULES[rule].severity
    assert severe <= {rule}
    assert found[rule]["examples"]


def test_every_rule_has_a_defect_here() -> None:
    assert {rule for rule, _ in DEFECTS} == set(RULES)


def test_places_name_the_record_and_the_objects(coco: Path) -> None:
    first(bbox=[5, 5, 2, 2])(coco)
    (place,) = found_in(coco)["object-tiny"]["examples"]
    assert place["text"].startswith("train: train/1.png, object 1 of disc: about 2.")
    assert (place["split"], place["image"]) == ("train", "train/1.png")
    assert place["object_ids"] == [1]


def test_the_size_of_an_object_is_that_in_the_models_input(coco: Path) -> None:
    # 6 pixels of an image of 96 x 72, which is stretched to a square.
    first(bbox=[5, 5, 6, 6])(coco)
    assert "object-tiny" not in found_in(coco)
    (place,) = found_in(coco, "--image-size", "48")["object-tiny"]["examples"]
    assert "about 3.5 x 3.5 pixels of 48" in place["text"]
    assert "object-tiny" not in found_in(coco, "--model", "full")


def test_a_model_with_more_queries_detects_more_objects(coco: Path) -> None:
    edit(coco, "valid", add_objects)
    assert "13 of disc" in found_in(coco)["object-crowded"]["examples"][0]["text"]
    assert "object-crowded" not in found_in(coco, "--model", "full")


def test_an_identical_image_shows_both(coco: Path) -> None:
    copy_image(coco)
    (place,) = found_in(coco)["copy-identical"]["examples"]
    pair = [place[key] for key in ("split", "image", "other_split", "other_image")]
    assert pair == ["test", "test/2.png", "train", "train/1.png"]


def test_a_duplicate_is_shown_with_the_first_object(coco: Path) -> None:
    edit(coco, "train", add_again())
    (place,) = found_in(coco)["object-duplicate"]["examples"]
    assert place["text"].endswith("object 999 of disc: object 1 again, IoU 1.00")
    assert place["object_ids"] == [999, 1]


def test_valid_may_stand_in_for_a_missing_test_split(coco: Path) -> None:
    (coco / "test.json").write_text((coco / "valid.json").read_text())
    assert validate(coco)["findings"] == []


def test_a_dataset_of_boxes_is_not_told_to_have_masks(coco: Path) -> None:
    edit_all(coco, lambda v: [a.update(segmentation=[]) for a in v["annotations"]])
    assert validate(coco)["findings"] == []


def test_a_crowd_is_not_a_duplicate(coco: Path) -> None:
    edit(coco, "train", add_again(iscrowd=1))
    assert validate(coco)["findings"] == []


def test_two_masks_within_one_box_are_two_objects(coco: Path) -> None:
    def add_triangles(values: Values) -> None:
        record = {**values["annotations"][0], "bbox": [2, 2, 20, 20], "area": 200}
        for number, outline in enumerate([[2, 2, 22, 2, 2, 22], [22, 22, 22, 2, 2, 22]]):
            values["annotations"].append({**record, "id": 900 + number, "segmentation": [outline]})

    edit(coco, "valid", add_triangles)
    assert "object-duplicate" not in found_in(coco)


def test_many_copies_of_one_object_are_counted_once_each(coco: Path) -> None:
    def add_many(values: Values) -> None:
        record = values["annotations"][0]
        values["annotations"] += [{**record, "id": 100 + n} for n in range(1500)]

    edit(coco, "train", add_many)
    finding = found_in(coco)["object-duplicate"]
    assert finding["count"] == 1500
    assert len(finding["examples"]) == 1000


def test_extreme_numbers_are_reported(coco: Path) -> None:
    def extremes(values: Values) -> None:
        boxes = [[0, 0, 5e-324, 1e15], [1e15, -1e15, 1e15, 1e-200], [3, 3, 1e-3, 1e-3]]
        for place, box in enumerate(boxes * 2):
            values["annotations"][place].update(bbox=box, segmentation=[])

    edit(coco, "train", extremes)
    assert {"structure-box-outside", "object-tiny"} <= set(found_in(coco))
    json.dumps(report_of(coco), allow_nan=False)
