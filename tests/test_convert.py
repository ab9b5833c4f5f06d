"""Converting COCO exports: what is repaired, what is refused, and that masks survive."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as mask_utils

from segtune.dataset.masks import mask_to_rle, segmentation_to_mask
from tests.conversion import convert, converted, refused, rules
from tests.export_writer import HEIGHT, SQUARE, WIDTH, Values, write_export

OUTPUTS = {"train.json", "valid.json", "test.json", "manifest.json", "conversion.json"}


def first(values: Values) -> dict[str, Any]:
    return values["annotations"][0]


def test_an_export_becomes_one_exact_dataset(tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in write_export(tmp_path / "export").rglob("*.*")}
    values = convert(tmp_path / "export", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == OUTPUTS
    for split in ("train", "valid", "test"):
        coco = values[split]
        assert [c["id"] for c in coco["categories"]] == [1, 2]
        assert [c["name"] for c in coco["categories"]] == ["big_dog", "cat"]
        assert [c["prompt"] for c in coco["categories"]] == ["big dog", "cat"]
        assert [a["id"] for a in coco["annotations"]] == [1, 2]
        assert [a["image_id"] for a in coco["annotations"]] == [1, 2]
        for annotation in coco["annotations"]:
            mask = segmentation_to_mask(annotation["segmentation"], HEIGHT, WIDTH)
            assert annotation["segmentation"] == [SQUARE]
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == [5, 5, 10, 10]
    root = Path(values["manifest"]["root"])
    assert [i["path"] for i in values["manifest"]["images"]] == sorted(
        f"{split}/{i['file_name'].rpartition('/')[2]}"
        for split in ("train", "valid", "test")
        for i in values[split]["images"]
    )
    assert all((root / i["file_name"]).is_file() for i in values["train"]["images"])
    assert rules(values) == {"placeholder category dropped": 3}
    assert {p: p.read_bytes() for p in before} == before


def set_first(**changes: Any) -> Callable[[Values], object]:
    return lambda values: first(values).update(changes)


def set_all(**changes: Any) -> Callable[[Values], object]:
    return lambda values: [record.update(changes) for record in values["annotations"]]


def set_categories(*categories: tuple[int, str, str]) -> Callable[[Values], object]:
    def change(values: Values) -> None:
        values["categories"] = [
            {"id": i, "name": name, "supercategory": above} for i, name, above in categories
        ]

    return change


CROSSED = [5.0, 5.0, 15.0, 15.0, 15.0, 5.0, 5.0, 15.0]
CROSSED_AREA = int(mask_utils.area(mask_utils.frPyObjects([CROSSED], HEIGHT, WIDTH))[0])
TRIANGLE = [5.0, 5.0, 15.0, 5.0, 15.0, 15.0]


@pytest.mark.parametrize(
    ("change", "rule", "expected"),
    [
        (set_first(bbox=["5.00", 5, "10", 10]), "number written as text", {"bbox": [5, 5, 10, 10]}),
        (set_first(bbox=[0, 0, 30, 20]), "box recomputed", {"bbox": [5, 5, 10, 10]}),
        (
            set_first(segmentation=SQUARE),
            "flat polygon wrapped in a list",
            {"segmentation": [SQUARE]},
        ),
        (
            set_first(segmentation=[SQUARE, [1, 2, 3, 4]]),
            "fewer than three points or an odd number",
            {"segmentation": [SQUARE]},
        ),
        (
            set_first(segmentation=[TRIANGLE, [*TRIANGLE, 1.0]]),
            "odd number of values dropped",
            {"segmentation": [TRIANGLE]},
        ),
        (
            set_first(segmentation=[[1, 2, 3, 4]]),
            "without a valid polygon",
            {"segmentation": [], "box_only": True, "bbox": [5, 5, 10, 10]},
        ),
        (
            set_first(segmentation=[[5, 5, 5, 5, 5, 5]]),
            "empty mask dropped",
            {"segmentation": [], "box_only": True},
        ),
        (
            set_first(segmentation=[CROSSED], bbox=[5, 5, 10, 10]),
            "self-intersecting polygon",
            {"segmentation": [CROSSED], "area": CROSSED_AREA},
        ),
        (
            set_first(segmentation=[], bbox=[-5, 20, 10, 20]),
            "box clipped",
            {"bbox": [0, 20, 5, 10], "area": 50, "box_only": True},
        ),
    ],
)
def test_what_can_be_repaired_is_repaired_and_logged(
    tmp_path: Path, change: Callable[[Values], object], rule: str, expected: dict[str, Any]
) -> None:
    values = converted(tmp_path, change)
    annotation = values["train"]["annotations"][0]
    assert {key: annotation[key] for key in expected} == expected
    assert "box_only" in expected or "box_only" not in annotation
    (repair,) = (r for r in values["conversion"]["repairs"] if rule in r["rule"])
    assert repair["count"] >= 1
    assert repair["examples"][0]["record"] == "annotation 0"
    assert repair["examples"][0]["file"] == "train/_annotations.coco.json"
    assert repair["examples"][0]["original"]


@pytest.mark.parametrize(
    ("bbox", "rule"),
    [
        ([5, 5, 0, 10], "box with no area dropped"),
        ([5, 5, 10, -3], "box with no area dropped"),
        ([50, 5, 9, 9], "box outside the image dropped"),
    ],
)
def test_a_single_empty_box_is_dropped_and_logged(
    tmp_path: Path, bbox: list[float], rule: str
) -> None:
    values = converted(tmp_path, set_first(segmentation=[], bbox=bbox))
    assert [a["id"] for a in values["train"]["annotations"]] == [1]
    assert values["train"]["annotations"][0]["image_id"] == 2
    (repair,) = (r for r in values["conversion"]["repairs"] if r["rule"] == rule)
    assert repair["count"] == 1
    assert repair["examples"][0]["original"] == bbox


@pytest.mark.parametrize(("dropped", "total", "passes"), [(2, 200, True), (3, 200, False)])
def test_at_most_one_percent_of_the_boxes_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dropped: int, total: int, passes: bool
) -> None:
    def change(values: Values) -> None:
        record = {**first(values), "segmentation": []}
        # The other two splits have four annotations.
        values["annotations"] = [{**record, "id": i} for i in range(total - 4)]
        for corrupted in values["annotations"][:dropped]:
            corrupted["bbox"] = [5, 5, 0, 0]

    export = write_export(tmp_path / "export", change)
    if passes:
        assert rules(convert(export, tmp_path / "out"))["box with no area dropped"] == dropped
    else:
        assert "3 of 200 boxes" in refused(export, tmp_path / "out", capsys)


def test_a_box_only_object_never_gets_a_mask(tmp_path: Path) -> None:
    values = converted(tmp_path, set_first(segmentation=[]))
    assert values["train"]["annotations"][0]["segmentation"] == []
    assert values["conversion"]["splits"]["train"]["box_only_objects"] == 1
    assert values["conversion"]["splits"]["train"]["masks"] == 1


@pytest.mark.parametrize(
    ("categories", "kept", "dropped"),
    [
        # A placeholder with the name of a real class: the annotated one stays.
        (((0, "cat", "none"), (1, "big_dog", "cat"), (2, "cat", "cat")), {"big_dog", "cat"}, 3),
        # A class without objects that is not a supercategory is kept.
        (
            ((0, "bird", "none"), (1, "big_dog", "x"), (2, "cat", "x")),
            {"bird", "big_dog", "cat"},
            2,
        ),
        (((1, "big_dog", "big_dog"), (2, "cat", "cat")), {"big_dog", "cat"}, 2),
    ],
)
def test_only_placeholders_are_dropped(
    tmp_path: Path, categories: tuple[tuple[int, str, str], ...], kept: set[str], dropped: int
) -> None:
    values = converted(tmp_path, set_categories(*categories))
    assert {c["name"] for c in values["train"]["categories"]} == kept
    # The other two splits have a placeholder each.
    assert rules(values)["placeholder category dropped"] == dropped


def test_an_annotated_category_0_stays(tmp_path: Path) -> None:
    values = converted(tmp_path, set_first(category_id=0))
    names = {c["id"]: c["name"] for c in values["train"]["categories"]}
    assert names[values["train"]["annotations"][0]["category_id"]] == "project"
    # Nor is it a placeholder where only another split annotates it.
    assert rules(values) == {}


def test_equivalent_names_are_merged_on_demand(tmp_path: Path) -> None:
    change = set_categories((1, "cat", "x"), (2, "Cat ", "x"))
    values = convert(write_export(tmp_path / "export", change), tmp_path / "out", merge_names=True)
    assert [c["name"] for c in values["train"]["categories"]] == ["cat", "big_dog"]
    assert {a["category_id"] for a in values["train"]["annotations"]} == {1}
    assert {a["category_id"] for a in values["valid"]["annotations"]} == {1, 2}
    assert rules(values)["categories with equivalent names merged"] == 1


def test_duplicate_annotation_ids_are_renumbered(tmp_path: Path) -> None:
    values = converted(tmp_path, lambda v: [a.update(id=0) for a in v["annotations"]])
    assert [a["id"] for a in values["train"]["annotations"]] == [1, 2]


def test_splits_with_different_classes_share_one_table(tmp_path: Path) -> None:
    values = converted(tmp_path, set_categories((1, "cat", "x"), (2, "bird", "x")))
    names = {c["id"]: c["name"] for c in values["test"]["categories"]}
    assert names == {1: "cat", 2: "bird", 3: "big_dog"}
    assert values["train"]["categories"] == values["test"]["categories"]
    # By name, whatever its id was in each split.
    assert [names[a["category_id"]] for a in values["train"]["annotations"]] == ["cat", "bird"]
    assert [names[a["category_id"]] for a in values["test"]["annotations"]] == ["big_dog", "cat"]
    assert rules(values)["classes missing from the split's categories added"] == 3


def duplicate(table: str, key: str) -> Callable[[Values], object]:
    return lambda v: v[table].append({**v[table][1], key: v[table][0][key]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_first(bbox=[float("nan"), 5, 10, 10]), "annotation 0: nan is not a valid coordinate"),
        (set_first(bbox=[5, 5, float("inf"), 10]), "annotation 0: inf is not a valid coordinate"),
        (set_first(segmentation=[[1e9, *SQUARE[1:]]]), "annotation 0: 1000000000.0 is not a valid"),
        (set_first(bbox=[10**400, 5, 10, 10]), "is not a valid coordinate"),
        (set_first(iscrowd="x"), "iscrowd is 'x' instead of 0 or 1"),
        (lambda v: v["images"][0].update(file_name="x" * 300), "is not a path inside the split"),
        (set_first(bbox=["x", 5, 10, 10]), "annotation 0: 'x' is not a number"),
        (set_first(bbox=[5, 5, 10]), "bbox has 3 numbers"),
        (set_first(bbox=None), "None is not a list of numbers"),
        (set_first(segmentation=7), "neither polygons nor RLE"),
        (set_first(segmentation={"size": [9, 9], "counts": [81]}), "RLE of size [9, 9]"),
        (set_first(segmentation={"size": [HEIGHT, WIDTH], "counts": [7]}), "RLE of 7 pixels"),
        (set_first(segmentation={"size": [HEIGHT, WIDTH], "counts": "ZZZZ"}), "RLE"),
        (set_first(segmentation={"size": [HEIGHT, WIDTH], "counts": [-1, 1201]}), "run lengths"),
        (set_first(category_id=None), "annotation 0: category_id None is not an integer"),
        (set_first(image_id=77), "annotation 0: image_id 77 does not exist"),
        (set_first(category_id=77), "annotation 0: category_id 77 does not exist"),
        (set_all(segmentation=[], bbox=[5, 5, 0, 10]), "2 of 6 boxes have no area"),
        (set_all(segmentation=[], bbox=[50, 5, 9, 9]), "or lie outside their image"),
        (duplicate("images", "id"), "id 0 is a duplicate"),
        (duplicate("images", "file_name"), "is a duplicate"),
        (lambda v: v["images"][0].update(file_name="../x.jpg"), "is not a path inside the split"),
        (lambda v: v["images"][0].update(file_name="gone.jpg"), "gone.jpg is neither"),
        (lambda v: v["images"][0].update(width=0), "size of 0 x 30"),
        (lambda v: v["images"][0].update(width=41), "40 x 30 pixels, but its record says 41 x 30"),
        (set_categories((1, "cat", "x"), (2, "Cat ", "x")), "'cat' and 'Cat ' differ only in case"),
        (set_categories((1, "cat", "x"), (2, "cat", "x")), "two annotated categories are named"),
        (set_categories((1, "12", "x"), (2, "cat", "x")), "'12' is not a prompt"),
        (
            set_categories((1, "aug_deneme2 - v1 2022-09-19 5-16pm", "x"), (2, "cat", "x")),
            "is not a prompt that SAM 3 can understand",
        ),
        (set_categories((1, "", "x"), (2, "cat", "x")), "category 1: the category has no name"),
        (set_categories((1, "12.5, 33.1", "x"), (2, "cat", "x")), "is not a prompt"),
        (set_categories((1, "a rusty nail " * 11, "x"), (2, "cat", "x")), "tokens as a prompt"),
        (lambda v: v.pop("annotations"), "the table 'annotations' is missing"),
    ],
)
def test_what_is_ambiguous_or_invalid_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Values], object],
    message: str,
) -> None:
    export = write_export(tmp_path / "export", change)
    line = refused(export, tmp_path / "out", capsys)
    assert message in line
    assert str(tmp_path / "export") in line or "categor" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the image file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"not an image at all", "cannot read the image"),
        (None, "cannot read the image"),
    ],
)
def test_a_damaged_image_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    export = write_export(tmp_path / "export")
    path = sorted((export / "valid").glob("*.jpg"))[0]
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    line = refused(export, tmp_path / "out", capsys)
    assert message in line
    assert path.name in line


def test_an_image_rotated_by_exif_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = write_export(tmp_path / "export")
    path = sorted((export / "train").glob("*.jpg"))[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)
    assert "EXIF orientation (6)" in refused(export, tmp_path / "out", capsys)


def test_prompts_come_from_the_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = write_export(tmp_path / "export", set_categories((1, "7", "x"), (2, "cat", "x")))
    values = convert(export, tmp_path / "out", prompts={"7": "lucky number", "cat": "kitten"})
    prompts = {c["name"]: c["prompt"] for c in values["train"]["categories"]}
    assert prompts == {"7": "lucky number", "cat": "kitten", "big_dog": "big dog"}
    shutil.rmtree(tmp_path / "out")
    line = refused(export, tmp_path / "out", capsys, prompts={"kat": "x", "7": "y"})
    assert "'kat', which is not a class of this export. The closest classes are 'cat'" in line


@pytest.mark.parametrize("words", ["", "  "])
def test_an_empty_prompt_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    export = write_export(tmp_path / "export")
    line = refused(export, tmp_path / "out", capsys, prompts={"cat": words})
    assert "an empty prompt for the class 'cat'" in line


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mask=arrays(np.uint8, (HEIGHT, WIDTH), elements=st.integers(0, 1)).filter(np.any))
def test_rle_comes_back_bitwise_identical(mask: Any, tmp_path: Path) -> None:
    # With holes and any number of parts, and iscrowd 0.
    compressed = mask_to_rle(mask)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.ravel("F"), 2])))
    counts = [int(run) for run in ([0, *runs] if mask.ravel("F")[0] else runs)]
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": counts}

    def change(values: Values) -> None:
        values["annotations"][0]["segmentation"] = compressed
        values["annotations"][1]["segmentation"] = uncompressed

    shutil.rmtree(tmp_path / "export", ignore_errors=True)
    values = converted(tmp_path, change)
    one, other = values["train"]["annotations"]
    assert one["segmentation"] == other["segmentation"] == compressed
    assert one["iscrowd"] == 0
    assert np.array_equal(segmentation_to_mask(other["segmentation"], HEIGHT, WIDTH), mask)
    assert one["area"] == mask.sum()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    assert one["bbox"] == [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def test_polygons_are_rasterized_as_pycocotools_does(tmp_path: Path) -> None:
    crossed = [5.0, 5.0, 25.0, 20.0, 25.0, 5.0, 5.0, 20.0]
    values = converted(tmp_path, set_first(segmentation=[crossed, SQUARE]))
    annotation = values["train"]["annotations"][0]
    expected = mask_utils.merge(mask_utils.frPyObjects([crossed, SQUARE], HEIGHT, WIDTH))
    assert annotation["segmentation"] == [crossed, SQUARE]
    assert annotation["area"] == mask_utils.area(expected)
