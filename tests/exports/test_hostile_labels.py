"""Labels that are absurd: one line that names the file and the record, in bounded time."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segtune.exports.classes import class_table
from segtune.exports.repairs import Repairs
from segtune.exports.split_source import SourceCategory, SplitSource
from tests.conversion import convert, refused, rules
from tests.export_writer import HEIGHT, SQUARE, WIDTH, Values, first, set_first, write_export
from tests.exports.test_fuzzing import scene
from tests.format_writers import OPTIONS, WRITERS

Change = Callable[[Values], object]
FAR = [0.0, 0.0, 1e6, 0.0, 0.0, 1e6]
DEEP = json.loads("[" * 300 + "]" * 300)


def set_image(**changes: Any) -> Change:
    return lambda values: values["images"][0].update(changes)


def set_name(name: object) -> Change:
    return lambda values: values["categories"][1].update(name=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_name("a\x1b[2Jb"), r"category 1: the category's name 'a\x1b[2Jb' has control"),
        (set_name("a\ud800"), r"category 1: the category's name 'a\ud800' has control"),
        (set_name("a\nb"), "has control characters"),
        (set_name("a" * 501), "is longer than 500 characters"),
        (
            lambda v: v["categories"][1].update(supercategory="a\ud800"),
            r"category 1: supercategory 'a\ud800' has control characters",
        ),
        (
            lambda v: v["categories"][1].update(supercategory="a" * 10**6),
            "category 1: supercategory 'aaa",
        ),
        (set_image(extra={"name": "a\x1b[2J"}), r"image 0: extra.name 'a\x1b[2J' has control"),
        (set_image(extra={"name": "a" * 501}), "is longer than 500 characters"),
        (set_name(True), "category 1: the category has no name"),
        (set_name(None), "category 1: the category has no name"),
        (set_image(file_name="a\x1b[2J.jpg"), r"'a\x1b[2J.jpg' is not a path inside"),
        (set_image(file_name="\ud800.jpg"), "is not a path inside the split"),
        (set_image(file_name=DEEP), "file_name [[[[...]]]] is not a path"),
        (set_image(width=10**6, height=10**6), "image 0: invalid size of 1e+06 x 1e+06 pixels"),
        (set_image(width=1e999), "image 0: inf is not a valid coordinate"),
        (set_image(width=True), "image 0: True is not a number"),
        (set_image(id=2**63), "id 9223372036854775808 is not an integer"),
        (set_image(id=True), "id True is not an integer"),
        (set_first(bbox=[5, 5, 1e999, 10]), "annotation 0: inf is not a valid coordinate"),
        (set_first(bbox=DEEP), "annotation 0: [[[[...]]]] is not a number"),
        (set_first(bbox=[DEEP, 1, 1, 1]), "annotation 0: [[[[...]]]] is not a number"),
        (set_first(bbox=["9" * 9999, 1, 1, 1]), "annotation 0: inf is not a valid coordinate"),
        (set_first(segmentation=[FAR]), "annotation 0: polygons with an outline of 3e+06"),
        (set_first(segmentation=[FAR, SQUARE]), "annotation 0: polygons with an outline of"),
        (set_first(segmentation=[[*SQUARE, 2e9, 3]]), "2000000000.0 is not a valid coordinate"),
        (
            set_first(segmentation={"size": [HEIGHT, WIDTH], "counts": "o" * 10**6}),
            "annotation 0: RLE whose counts are not run lengths",
        ),
        (
            set_first(segmentation={"size": [HEIGHT, WIDTH], "counts": [2**32 + 1200]}),
            "annotation 0: RLE whose counts are not run lengths",
        ),
    ],
)
def test_an_absurd_coco_record_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, message: str
) -> None:
    line = refused(write_export(tmp_path / "export", change), tmp_path / "out", capsys)
    assert message in line
    assert "train/_annotations.coco.json: " in line
    assert line.strip().isprintable()
    assert len(line) < 700


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}".encode("utf-16"), "cannot read the JSON (not UTF-8 text: byte 0xff"),
        (b'{"images":' + b"[" * 10**6, "cannot read the JSON (nested too deeply)"),
        (b'{"images": [], "images": []}', "cannot read the JSON (the key 'images' is a duplicate)"),
        (b'{"images": ' + b"9" * 5000 + b"}", "cannot read the JSON (Exceeds the limit"),
    ],
)
def test_a_coco_file_that_is_not_json_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    export = write_export(tmp_path / "export")
    (export / "train" / "_annotations.coco.json").write_bytes(content)
    line = refused(export, tmp_path / "out", capsys)
    assert f"train/_annotations.coco.json: {message}" in line


def test_a_coco_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    path = export / "train" / "_annotations.coco.json"
    path.write_text(path.read_text(), "utf-8-sig")
    assert convert(export, tmp_path / "out")["train"]["annotations"]


def test_a_polygon_partly_outside_its_image_is_unchanged(tmp_path: Path) -> None:
    polygon = [-500.0, 5.0, 900.0, 5.0, 900.0, 400.0, -500.0, 400.0]
    values = convert(
        write_export(tmp_path / "export", set_first(segmentation=[polygon])), tmp_path / "out"
    )
    annotation = first(values["train"])
    assert annotation["segmentation"] == [polygon]
    assert annotation["bbox"] == [0, 5, WIDTH, HEIGHT - 5]


def test_many_classes_take_linear_time() -> None:
    names = [f"class n{number}" for number in range(30_000)]
    categories = tuple(SourceCategory(n, name) for n, name in enumerate(names))
    source = SplitSource(Path("train.json"), categories, (), ())
    began = time.monotonic()
    classes, ids = class_table({"train": source}, Repairs(Path()))
    assert [c.name for c in classes] == names
    assert ids["train"] == {n: n + 1 for n in range(30_000)}
    assert time.monotonic() - began < 3


NO_NORWAY = "names: [no, yes, 2024-01-01 x]\nnc: 3\n"


def test_class_names_of_yaml_are_the_text_that_was_written(tmp_path: Path) -> None:
    WRITERS["yolo"](tmp_path / "export", scene("yolo"))
    (tmp_path / "export" / "data.yaml").write_text(NO_NORWAY)
    values = convert(tmp_path / "export", tmp_path / "out")
    names = [category["name"] for category in values["train"]["categories"]]
    assert names == ["no", "yes", "2024-01-01 x"]


def edit(path: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    def apply(export: Path) -> None:
        text = (export / path).read_text()
        assert change(text) != text
        (export / path).write_text(change(text))

    return apply


def insert_size(width: int, height: int) -> Callable[[str], str]:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return lambda text: text.replace("<object>", f"{size}<object>", 1)


def orphan(export: Path) -> None:
    Image.new("L", (40, 30)).save(export / "train" / "gone_mask.png")


def resized(export: Path) -> None:
    path = export / "train" / "train0_mask.png"
    Image.open(path).resize((30, 40), Image.Resampling.NEAREST).save(path)


def floats(export: Path) -> None:
    Image.new("F", (40, 30)).save(export / "train" / "train0_mask.png", "TIFF")


CREATEML = "train/_annotations.createml.json"
TENSORFLOW = "train/_annotations.csv"


@pytest.mark.parametrize(
    ("kind", "corrupt", "message"),
    [
        ("yolo", edit("data.yaml", lambda t: "names: [a, , c]"), "cannot read the YAML"),
        ("yolo", edit("data.yaml", lambda t: "names: ['', b, c]"), "the category has no name"),
        ("yolo", edit("data.yaml", lambda t: "names: [[a], b, c]"), "the category has no name"),
        (
            "yolo",
            edit("data.yaml", lambda t: t.replace('"nc": 3', "nc: " + "9" * 5000)),
            "nc is 99999",
        ),
        ("yolo", edit("data.yaml", lambda t: "names: {~: a, 1: b}"), "indices ['1', '~'] instead"),
        ("yolo", edit("data.yaml", lambda t: 'names: ["a\\e[2J", b, c]'), r"name 'a\x1b[2J' has"),
        ("yolo", edit("data.yaml", lambda t: f"train: {'a/' * 9999}\n{t}"), "cannot read the YAML"),
        ("yolo", edit("train/labels/train0.txt", lambda t: "0 1e999 1 1 1"), "line 1: coordinates"),
        ("yolo", edit("train/labels/train0.txt", lambda t: "1e999 1 1 1 1"), "line 1: class inf"),
        ("voc", edit("train/train0.xml", insert_size(41, 30)), "size: train0.jpg has 40 x 30"),
        (
            "voc",
            edit("train/train0.xml", lambda t: t.replace("<xmin>4<", "<xmin>1e999<")),
            "inf is",
        ),
        (
            "createml",
            edit(CREATEML, lambda t: t.replace("28.5", "9" * 400, 1)),
            "is not a valid coordinate",
        ),
        ("createml", edit(CREATEML, lambda t: t.replace('"crab"', "true")), "label True: the cat"),
        ("createml", edit(CREATEML, lambda t: t.replace('"crab"', "null")), "label None: the cat"),
        ("createml", edit(CREATEML, lambda t: t.replace('"crab"', '"\\ud800"')), "has control"),
        (
            "tensorflow",
            edit(TENSORFLOW, lambda t: t.replace(",40,30,", ",40,31,", 1)),
            "line 2: train0.jpg has 40 x 30 pixels, but its record says 40 x 31",
        ),
        (
            "sam2",
            edit("train/train0.json", lambda t: t.replace('"width": 40', '"width": 41')),
            "train0.json: image: train0.jpg has 40 x 30 pixels, but its record says 41 x 30",
        ),
        ("semantic", orphan, "gone_mask.png: the mask of an image that does not exist"),
        ("semantic", resized, "the mask has 30 x 40 pixels, but the image has 40 x 30"),
        ("semantic", floats, "a color or float image"),
        ("semantic", edit("train/_classes.csv", lambda t: f"{t}\n1, x"), "not a table of pixel"),
    ],
)
def test_an_absurd_label_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    corrupt: Callable[[Path], object],
    message: str,
) -> None:
    WRITERS[kind](tmp_path / "export", scene(kind))
    corrupt(tmp_path / "export")
    line = refused(tmp_path / "export", tmp_path / "out", capsys, **OPTIONS.get(kind, {}))
    assert message in line
    assert line.strip().isprintable()
    assert len(line) < 700


def test_a_size_of_zero_in_voc_is_not_a_size(tmp_path: Path) -> None:
    WRITERS["voc"](tmp_path / "export", scene("voc"))
    edit("train/train0.xml", insert_size(0, 0))(tmp_path / "export")
    assert convert(tmp_path / "export", tmp_path / "out")["train"]["annotations"]


def test_a_long_polygon_of_voc_takes_linear_time(tmp_path: Path) -> None:
    WRITERS["voc"](tmp_path / "export", scene("voc"))
    angles = np.linspace(0, 6.28, 30_000, endpoint=False)
    points = "".join(
        f"<x{n}>{20 + 9 * np.cos(a):.6f}</x{n}><y{n}>{15 + 9 * np.sin(a):.6f}</y{n}>"
        for n, a in enumerate(angles, start=1)
    )
    change = edit(
        "train/train0.xml",
        lambda t: re.sub("<polygon>.*</polygon>", f"<polygon>{points}</polygon>", t),
    )
    change(tmp_path / "export")
    began = time.monotonic()
    convert(tmp_path / "export", tmp_path / "out")
    assert time.monotonic() - began < 5


def test_specks_of_a_mask_are_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    WRITERS["semantic"](tmp_path / "export", scene("semantic"))
    pixels = np.zeros((1500, 1500), np.uint8)
    pixels[::2, ::2] = 1
    Image.fromarray(pixels).save(tmp_path / "export" / "train" / "train0_mask.png")
    Image.new("RGB", (1500, 1500)).save(tmp_path / "export" / "train" / "train0.jpg")
    began = time.monotonic()
    line = refused(tmp_path / "export", tmp_path / "out", capsys, connected_components=True)
    assert "train0_mask.png: more than 10000 connected components" in line
    assert time.monotonic() - began < 5


@pytest.mark.timeout(60)
def test_many_classes_all_over_a_mask_take_linear_time(tmp_path: Path) -> None:
    WRITERS["semantic"](tmp_path / "export", scene("semantic"))
    train = tmp_path / "export" / "train"
    table = "".join(f"{value},kind n{value}\n" for value in range(1, 256))
    for split in ("train", "valid", "test"):
        path = tmp_path / "export" / split / "_classes.csv"
        path.write_text(f"Pixel Value,Class\n0,background\n{table}")
    rng = np.random.default_rng(0)
    tiles = rng.integers(1, 256, (60, 60), dtype=np.uint8)
    Image.fromarray(tiles.repeat(50, 0).repeat(50, 1)).save(train / "train0_mask.png")
    Image.new("RGB", (3000, 3000)).save(train / "train0.jpg")
    began = time.monotonic()
    values = convert(tmp_path / "export", tmp_path / "out", connected_components=True)
    assert len(values["train"]["annotations"]) > 3000
    assert time.monotonic() - began < 5


@pytest.mark.timeout(60)
def test_a_long_polygon_is_not_tested_for_crossings(tmp_path: Path) -> None:
    # Rays from the middle: a box around each of their edges meets all the others.
    angles = np.arange(15_000) / 15_000 * 2 * np.pi
    radii = np.where(np.arange(15_000) % 2, 14, 1)
    points = np.stack([20 + radii * np.cos(angles), 15 + radii * np.sin(angles)], 1)
    export = write_export(tmp_path / "export", set_first(segmentation=[points.ravel().tolist()]))
    began = time.monotonic()
    values = convert(export, tmp_path / "out")
    assert time.monotonic() - began < 5
    rule = "polygon of more than 10000 points not tested for self-intersection"
    assert rules(values)[rule] == 1
    assert len(values["train"]["annotations"][0]["segmentation"][0]) == 30_000
