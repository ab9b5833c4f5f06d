"""Every format gives back what was written, and errors name the place."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from segtune.dataset.coco import Annotation, Split, read_split
from segtune.dataset.masks import segmentation_to_mask
from tests.conversion import convert, refused
from tests.export_writer import zip_export
from tests.format_writers import (
    CLASSES,
    OPTIONS,
    SPLITS,
    WRITERS,
    DrawnImage,
    Scene,
    Thing,
    write_yolo,
)

ROUNDING = {"coco": 1e-9, "yolo": 1e-6, "voc": 0.5, "createml": 1e-9, "tensorflow": 0.5}  # pixels
Random = np.random.Generator


def random_box(rng: Random, width: int, height: int) -> tuple[float, float, float, float]:
    x, y = rng.uniform(0, width - 12), rng.uniform(0, height - 12)
    w, h = rng.uniform(4, width - x - 1), rng.uniform(4, height - y - 1)
    return round(x, 3), round(y, 3), round(w, 3), round(h, 3)


def random_polygon(rng: Random, width: int, height: int) -> Thing:
    """A polygon that covers a pixel, and whose box no format rounds to nothing.

    Of others, conversion keeps at most the box.
    """
    while True:
        thing = any_polygon(rng, width, height)
        (rle,) = mask_utils.frPyObjects([list(thing.polygon)], height, width)
        if mask_utils.area(rle) and min(thing.box_xywh[2:]) >= 1:
            return thing


def any_polygon(rng: Random, width: int, height: int) -> Thing:
    x, y, w, h = random_box(rng, width, height)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 7)) + 0.001 * np.arange(7)
    xs, ys = x + w * (0.5 + 0.5 * np.cos(angles)), y + h * (0.5 + 0.5 * np.sin(angles))
    points = np.stack([xs, ys], 1).round(3)
    (left, top), size = points.min(0), np.ptp(points, axis=0)
    box = (float(left), float(top), float(size[0]), float(size[1]))
    return Thing(int(rng.integers(3)), box, tuple(points.ravel().tolist()))


def box_around(mask: npt.NDArray[np.uint8]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = float(columns[0]), float(rows[0])
    return left, top, float(columns[-1]) + 1 - left, float(rows[-1]) + 1 - top


def random_masks(rng: Random, width: int, height: int, fewest: int = 0) -> tuple[Thing, ...]:
    """Rings with holes, each in its own quarter, so that they never touch."""
    things = []
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        mask = np.zeros((height, width), np.uint8)
        top, left = row * height // 2 + 1, column * width // 2 + 1
        h, w = (int(rng.integers(4, side // 2 - 2)) for side in (height, width))
        mask[top : top + h, left : left + w] = 1
        mask[top + 1 : top + h - 1, left + 1 : left + w - 1] = 0
        mask[top : top + 2, left : left + 2] = 1
        things.append(Thing(int(rng.integers(3)), box_around(mask), mask=mask))
    return tuple(things[: rng.integers(fewest, 5)])


def random_scene(seed: int, kind: str) -> Scene:
    rng = np.random.default_rng(seed)
    scene: Scene = {}
    for split in SPLITS:
        scene[split] = []
        for index in range(3):
            width, height = (int(side) for side in rng.integers(24, 90, 2))
            count = int(rng.integers(0, 4)) + (index == 0)
            things: tuple[Thing, ...]
            if kind == "masks":
                things = random_masks(rng, width, height, fewest=int(index == 0))
            else:
                box_only = [kind == "boxes" or rng.random() < 0.4 for _ in range(count)]
                things = tuple(
                    Thing(int(rng.integers(3)), random_box(rng, width, height))
                    if is_box
                    else random_polygon(rng, width, height)
                    for is_box in box_only
                )
            scene[split].append(
                DrawnImage(f"{split}{index}_jpg.rf.a{index}", width, height, things)
            )
    return scene


def read_back(tmp_path: Path, kind: str, scene: Scene, **options: Any) -> dict[str, Split]:
    for folder in ("export", "out"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    WRITERS[kind](tmp_path / "export", scene)
    found = convert(tmp_path / "export", tmp_path / "out", **OPTIONS.get(kind, {}), **options)
    assert found["conversion"]["format"] == kind
    return {split: read_split(tmp_path / "out" / f"{split}.json") for split in SPLITS}


def extent(a: Annotation) -> tuple[float, float, float, float]:
    """x, y, width and height of the polygon; the box has only the pixels that it covers."""
    if not isinstance(a.segmentation, list):
        return a.bbox_xywh
    points = np.concatenate(a.segmentation).reshape(-1, 2)
    (x, y), (w, h) = points.min(0), np.ptp(points, axis=0)
    return float(x), float(y), float(w), float(h)


def pairs(
    splits: dict[str, Split], scene: Scene
) -> list[tuple[Thing, DrawnImage, Annotation, str]]:
    """Every object that was written with the one that was read; there must not be others."""
    together = []
    for name, split in splits.items():
        names = {category.id: category.name for category in split.categories}
        by_name = {Path(image.file_name).name: image for image in split.images}
        assert sorted(by_name) == sorted(drawn.name for drawn in scene[name])
        for drawn in scene[name]:
            image = by_name[drawn.name]
            assert (image.width, image.height) == (drawn.width, drawn.height)
            read = split.annotations[image.id]
            assert len(read) == len(drawn.things)
            for thing in drawn.things:
                nearest = min(
                    read, key=lambda a: np.abs(np.subtract(extent(a), thing.box_xywh)).max()
                )
                together.append((thing, drawn, nearest, names[nearest.category_id]))
    return together


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@example(seed=323323)  # a thin polygon covers the pixels of half of its width
@example(seed=619)  # a thinner one, which covers none, is drawn again
@given(seed=st.integers(0, 10**6))
def test_polygons_and_boxes_come_back(tmp_path: Path, kind: str, seed: int) -> None:
    scene = random_scene(seed, "polygons")
    for thing, image, annotation, name in pairs(read_back(tmp_path, kind, scene), scene):
        assert name == CLASSES[thing.label]
        if not thing.polygon:
            assert annotation.segmentation is None
            assert annotation.bbox_xywh == pytest.approx(thing.box_xywh, abs=2 * ROUNDING[kind])
            continue
        assert isinstance(annotation.segmentation, list)
        (polygon,) = annotation.segmentation
        assert list(polygon) == pytest.approx(list(thing.polygon), abs=ROUNDING["yolo"])
        if kind != "yolo":  # whose rounded corners may change single pixels
            rle = mask_utils.merge(
                mask_utils.frPyObjects([list(thing.polygon)], image.height, image.width)
            )
            mask = segmentation_to_mask(annotation.segmentation, image.height, image.width)
            assert np.array_equal(mask, mask_utils.decode(rle))
            assert annotation.bbox_xywh == pytest.approx(tuple(mask_utils.toBbox(rle)))
            assert annotation.area == mask_utils.area(rle)


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "createml", "tensorflow"])
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6))
def test_boxes_come_back_without_a_mask(tmp_path: Path, kind: str, seed: int) -> None:
    scene = random_scene(seed, "boxes")
    for thing, _, annotation, name in pairs(read_back(tmp_path, kind, scene), scene):
        assert name == CLASSES[thing.label]
        assert annotation.segmentation is None
        assert annotation.bbox_xywh == pytest.approx(thing.box_xywh, abs=2 * ROUNDING[kind])


@pytest.mark.parametrize("kind", ["coco", "sam2", "semantic"])
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6))
def test_masks_with_holes_come_back_bitwise_identical(tmp_path: Path, kind: str, seed: int) -> None:
    scene = random_scene(seed, "masks")
    for thing, image, annotation, name in pairs(read_back(tmp_path, kind, scene), scene):
        assert name == ("crab" if kind == "sam2" else CLASSES[thing.label])
        assert isinstance(annotation.segmentation, dict)
        mask = segmentation_to_mask(annotation.segmentation, image.height, image.width)
        assert np.array_equal(mask, thing.mask)
        assert annotation.bbox_xywh == thing.box_xywh


@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_zip_file_is_read_without_the_files_of_operating_systems(
    tmp_path: Path, kind: str
) -> None:
    of_masks = kind in ("sam2", "semantic")
    scene = random_scene(1, "masks" if of_masks else "boxes")
    export = tmp_path / "export"
    WRITERS[kind](export, scene)
    for place in (export, export / "train"):
        (place / "._image.jpg").write_bytes(b"junk")
        for name in ("._labels.json", "._a.txt", "._b.xml", ".DS_Store", "labels.cache"):
            (place / name).write_text("junk")
    (export / "__MACOSX" / "train").mkdir(parents=True)
    (export / "__MACOSX" / "train" / "_annotations.coco.json").write_text("junk")
    archive = zip_export(export, tmp_path / "export.zip")
    folder = convert(export, tmp_path / "one", **OPTIONS.get(kind, {}))
    zipped = convert(archive, tmp_path / "two", **OPTIONS.get(kind, {}))
    for split in SPLITS:
        assert folder[split] == zipped[split]
        assert len(folder[split]["images"]) == 3


def one_image(*things: Thing) -> Scene:
    return {split: [DrawnImage(split, 40, 30, things)] for split in SPLITS}


CORNERS = (4.0, 4.0, 20.0, 4.0, 20.0, 20.0, 4.0, 20.0)
SQUARE = Thing(0, (4.0, 4.0, 16.0, 16.0), CORNERS)
BOX = Thing(1, (8.0, 6.0, 12.0, 10.0))


def test_a_yolo_file_may_mix_boxes_and_polygons(tmp_path: Path) -> None:
    splits = read_back(tmp_path, "yolo", one_image(SQUARE, BOX))
    square, box = splits["valid"].annotations[1]
    assert square.segmentation and not box.segmentation
    assert box.bbox_xywh == pytest.approx(BOX.box_xywh)


def test_nine_values_are_a_polygon_unless_boxes_are_oriented(tmp_path: Path) -> None:
    tilted = Thing(0, (4.0, 4.0, 16.0, 16.0), (12.0, 4.0, 20.0, 12.0, 12.0, 20.0, 4.0, 12.0))
    (polygon,) = read_back(tmp_path, "yolo", one_image(tilted))["test"].annotations[1]
    assert polygon.segmentation and polygon.area < 200
    oriented = read_back(tmp_path, "yolo", one_image(tilted), oriented_boxes=True)
    (box,) = oriented["test"].annotations[1]
    assert box.segmentation is None
    assert box.bbox_xywh == pytest.approx((4, 4, 16, 16))


def test_names_may_be_a_list_or_a_map(tmp_path: Path) -> None:
    write_yolo(tmp_path / "map", one_image(BOX), dict(enumerate(CLASSES)))
    write_yolo(tmp_path / "list", one_image(BOX))
    text = (tmp_path / "map" / "data.yaml").read_text()
    for index in range(3):  # JSON turned them into text
        text = text.replace(f'"{index}":', f"{index}:")
    (tmp_path / "map" / "data.yaml").write_text(text)
    one, other = (convert(tmp_path / n, tmp_path / f"{n}-out") for n in ("map", "list"))
    assert one["train"] == other["train"]


def test_an_image_without_a_label_file_has_no_objects(tmp_path: Path) -> None:
    write_yolo(tmp_path / "export", one_image(BOX))
    (tmp_path / "export" / "valid" / "labels" / "valid.txt").unlink()
    values = convert(tmp_path / "export", tmp_path / "out")
    assert len(values["valid"]["images"]) == 1
    assert values["valid"]["annotations"] == []


def replace(path: str, text: str | Callable[[str], str]) -> Callable[[Path], object]:
    def corrupt(export: Path) -> None:
        file = export / path
        file.write_text(text if isinstance(text, str) else text(file.read_text()))

    return corrupt


LABELS = "train/labels/train.txt"
BOMB = '<!DOCTYPE a [<!ENTITY b "b"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("kind", "corrupt", "message"),
    [
        ("yolo", replace(LABELS, "3 0.5 0.5 0.1 0.1"), "train.txt: line 1: class 3, but data.yaml"),
        ("yolo", replace(LABELS, "0.5 0.5 0.5 0.1 0.1"), "line 1: class 0.5"),
        ("yolo", replace(LABELS, "\n0 0.5 0.5 0.1 x"), "line 2: '0 0.5 0.5 0.1 x' is not a line"),
        ("yolo", replace(LABELS, "0 0.5 0.5 0.1"), "3 coordinates are neither a box"),
        ("yolo", replace(LABELS, "0 .1 .1 .2 .2 .3 .3 .4"), "7 coordinates are neither"),
        ("yolo", replace(LABELS, "0 20 15 10 10"), "not fractions of the image's width"),
        ("yolo", replace(LABELS, "nan 0.5 0.5 0.1 0.1"), "line 1: class nan"),
        ("yolo", replace(LABELS, "0 nan 0.5 0.1 0.1"), "not fractions"),
        ("yolo", replace("train/labels/gone.txt", ""), "gone.txt: labels of an image"),
        ("yolo", replace("data.yaml", "names: [a, b, c]\nnc: 4"), "nc is 4, but there are 3"),
        ("yolo", replace("data.yaml", "names: {0: a, 2: b}"), "the indices ['0', '2'] instead"),
        ("yolo", replace("data.yaml", "names: [a"), "data.yaml: cannot read the YAML"),
        ("yolo", replace("data.yaml", "nc: 3"), "data.yaml: has no list of names"),
        ("voc", replace("train/train.xml", BOMB), "it declares entities"),
        ("voc", replace("train/train.xml", "<annotation>"), "train.xml: cannot read the XML"),
        ("voc", replace("train/gone.xml", "<annotation/>"), "gone.xml: labels of an image"),
        (
            "voc",
            replace("train/train.xml", lambda t: t.replace("<xmin>8<", "<xmin>eight<")),
            "train.xml: object 1: xmin is 'eight', not a number",
        ),
        (
            "createml",
            replace("train/_annotations.createml.json", lambda t: t.replace("train.jpg", "x.jpg")),
            "image 'x.jpg': the image is not in the same folder",
        ),
        (
            "createml",
            replace("train/_annotations.createml.json", "[{}]"),
            "cannot read the CreateML JSON",
        ),
        (
            "createml",
            replace("train/_annotations.createml.json", lambda t: t.replace("14.0", '"left"')),
            "annotation 0: coordinates that are not numbers",
        ),
        ("tensorflow", replace("train/_annotations.csv", "a,b\n1,2\n"), "columns other than"),
        (
            "tensorflow",
            replace("train/_annotations.csv", lambda t: t.replace("train.jpg", "x.jpg")),
            "_annotations.csv: line 2: the image 'x.jpg' is not in the same folder",
        ),
        (
            "tensorflow",
            replace("train/_annotations.csv", lambda t: t.replace(",8,", ",,")),
            "line 2: corners that are not numbers",
        ),
    ],
)
def test_an_error_names_its_place(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    corrupt: Callable[[Path], object],
    message: str,
) -> None:
    WRITERS[kind](tmp_path / "export", one_image(BOX))
    corrupt(tmp_path / "export")
    assert message in refused(tmp_path / "export", tmp_path / "out", capsys)


RING = random_masks(np.random.default_rng(3), 40, 30) or ()


@pytest.mark.parametrize(
    ("kind", "corrupt", "message"),
    [
        ("sam2", replace("train/train.json", '{"image": {}}'), "not the JSON of an image"),
        (
            "sam2",
            replace(
                "train/train.json", lambda t: t.replace('"size": [30, 40]', '"size": [40, 30]')
            ),
            "RLE of size [40, 30]",
        ),
        ("sam2", replace("train/train0.json", "{"), "train0.json: cannot read the JSON"),
        ("semantic", replace("train/_classes.csv", "Value, Class\nx, y"), "not a table of pixel"),
        ("semantic", replace("train/_classes.csv", "Value, Class\n0, a"), "does not name"),
        (
            "semantic",
            lambda e: (e / "train/train_mask.png").unlink(),
            "the mask train_mask.png is missing",
        ),
    ],
)
def test_masks_that_cannot_be_read_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    corrupt: Callable[[Path], object],
    message: str,
) -> None:
    assert RING
    WRITERS[kind](tmp_path / "export", one_image(*RING))
    corrupt(tmp_path / "export")
    assert message in refused(tmp_path / "export", tmp_path / "out", capsys, **OPTIONS[kind])


@pytest.mark.parametrize(
    ("kind", "option"), [("sam2", "class_name"), ("semantic", "connected_components: true")]
)
def test_what_a_format_leaves_open_must_be_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, option: str
) -> None:
    WRITERS[kind](tmp_path / "export", one_image(*RING))
    assert f"convert: {{{option}" in refused(tmp_path / "export", tmp_path / "out", capsys)


def test_areas_that_touch_at_a_corner_are_one_object(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[2:6, 2:6] = mask[6:9, 6:9] = mask[20:25, 20:25] = 1
    scene = one_image(Thing(0, box_around(mask), mask=mask))
    first, second = read_back(tmp_path, "semantic", scene)["train"].annotations[1]
    assert (first.area, second.area) == (25, 25)
