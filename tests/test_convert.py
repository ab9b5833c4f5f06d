"""Converting COCO exports: one exact dataset, or a refusal that names the place."""

from collections.abc import Callable
from pathlib import Path

import pytest

from segtune.core.publishing import exclusive
from segtune.dataset.masks import segmentation_to_mask
from tests.conversion import convert, refused, rules
from tests.export_writer import (
    HEIGHT,
    SQUARE,
    WIDTH,
    Values,
    set_all,
    set_categories,
    set_first,
    write_export,
)

OUTPUTS = {"train.json", "valid.json", "test.json", "manifest.json", "conversion.json"}


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


def test_two_conversions_into_one_folder_do_not_disturb_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = write_export(tmp_path / "export")
    with exclusive(tmp_path / "out"):  # as the first conversion holds it
        message = refused(export, tmp_path / "out", capsys)
        assert "BusyError" in message and "another segtune process is writing here" in message
        assert convert(export, tmp_path / "elsewhere")
    assert convert(export, tmp_path / "out") == convert(export, tmp_path / "out")


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
