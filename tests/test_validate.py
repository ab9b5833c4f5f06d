"""The gate before training: errors stop, warnings are counted, reports are for people."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from segtune.convert import main as convert
from segtune.validate import main
from tests.export_writer import HEIGHT, WIDTH, write_export


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    convert(["--export", str(write_export(tmp_path / "export")), "--out", str(tmp_path / "coco")])
    return tmp_path / "coco"


def validate(coco: Path, **settings: Any) -> dict[str, Any]:
    out = coco.parent / "validate"
    main(["--coco", str(coco), "--out", str(out), "--settings", json.dumps(settings)])
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_a_good_dataset_passes_with_its_counts(coco: Path) -> None:
    report = validate(coco)
    assert report["errors"] == report["warnings"] == []
    assert report["splits"]["train"] == {
        "images": 2,
        "images_without_objects": 0,
        "objects": 2,
        "box_only_objects": 0,
        "per_class": {"big_dog": 1, "cat": 1},
    }


def edit(coco: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = coco / f"{name}.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def first(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = values["annotations"][0]
    return found


def set_rle(size: list[int], counts: list[int] | str | None) -> Callable[[dict[str, Any]], object]:
    return lambda values: first(values).update(segmentation={"size": size, "counts": counts})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train", lambda v: v.update(annotations=[]), "a training split without objects"),
        ("test", lambda v: v.update(images=[], annotations=[]), "a split without images"),
        ("test", lambda v: v["categories"].pop(), "splits with different classes"),
        ("train", lambda v: first(v).update(id=0), "an id below 1"),
        ("train", lambda v: first(v).update(id=2), "used twice"),
        ("train", lambda v: first(v).update(bbox=[35, 5, 10, 10]), "outside its image"),
        ("train", lambda v: first(v).update(bbox=[5, 5, 0, 10]), "a box of no size"),
        ("train", lambda v: first(v).update(bbox=[float("nan"), 5, 1, 1]), "a box of no size"),
        ("train", lambda v: first(v).update(category_id=9), "of an unknown class"),
        (
            "train",
            lambda v: first(v).update(segmentation=[[1, 1, 1, 1, 1, 1]]),
            "mask that is empty",
        ),
        ("train", lambda v: first(v).update(segmentation={"size": [1, 1]}), "mask that is empty"),
        # As many pixels, in another shape.
        ("train", set_rle([WIDTH, HEIGHT], [9, WIDTH * HEIGHT - 9]), "of another size"),
        ("train", set_rle([HEIGHT, WIDTH], [WIDTH * HEIGHT]), "mask that is empty"),
        ("train", set_rle([HEIGHT, WIDTH], [9, 10 * WIDTH * HEIGHT]), "cannot be read"),
        ("train", set_rle([HEIGHT, WIDTH], None), "cannot be read"),
        ("train", set_rle([HEIGHT, WIDTH], "ZZZZ"), "cannot be read"),
        ("train", set_rle([HEIGHT, WIDTH], "0"), "cannot be read"),
        ("train", lambda v: v["images"][0].update(file_name="no.jpg"), "that is not there"),
        ("manifest", lambda v: v["images"][0].update(size=1), "that has changed since"),
    ],
)
def test_what_later_stages_cannot_use_is_an_error(
    coco: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[dict[str, Any]], object],
    message: str,
) -> None:
    edit(coco, name, change)
    with pytest.raises(SystemExit) as raised:
        validate(coco)
    assert raised.value.code == 1
    assert message in capsys.readouterr().err
    report = json.loads((coco.parent / "validate" / "report.json").read_text())
    assert any(message in problem["problem"] for problem in report["errors"])
    assert (coco.parent / "validate" / "report.html").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("images"),
        lambda v: v.update(images=[1]),
        lambda v: v["images"][0].pop("sha256"),
    ],
)
def test_a_damaged_manifest_is_an_error(
    coco: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object]
) -> None:
    edit(coco, "manifest", change)
    with pytest.raises(SystemExit):
        validate(coco)
    assert "manifest.json: no list of images" in capsys.readouterr().err


def test_a_class_without_a_prompt_is_an_error(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "valid", "test"):
        edit(coco, name, lambda v: v["categories"][0].update(prompt=" "))
    with pytest.raises(SystemExit):
        validate(coco)
    assert "a class without a prompt" in capsys.readouterr().err


def test_an_rle_of_the_right_size_passes(coco: Path) -> None:
    edit(coco, "train", set_rle([HEIGHT, WIDTH], [9, WIDTH * HEIGHT - 9]))
    assert validate(coco)["errors"] == []


def test_two_classes_with_one_prompt_are_an_error(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "valid", "test"):
        edit(coco, name, lambda v: v["categories"][0].update(prompt="CAT"))
    with pytest.raises(SystemExit):
        validate(coco)
    assert "two classes with one prompt" in capsys.readouterr().err


def test_a_image_in_two_splits_is_a_warning(coco: Path) -> None:
    def copy_hash(values: dict[str, Any]) -> None:
        by_path = {record["path"]: record for record in values["images"]}
        train, test = (next(p for p in by_path if p.startswith(s)) for s in ("train", "test"))
        by_path[test]["sha256"] = by_path[train]["sha256"]

    edit(coco, "manifest", copy_hash)
    (warning,) = validate(coco)["warnings"]
    assert "both in train and in test" in warning["problem"]
    assert warning["count"] == 1
    assert "train/train0" in warning["examples"][0]


def test_a_class_without_objects_is_a_warning(coco: Path) -> None:
    edit(coco, "valid", lambda v: first(v).update(category_id=2))
    (warning,) = validate(coco)["warnings"]
    assert warning["problem"] == "a class without objects in valid"
    assert warning["examples"] == ["big_dog"]


def test_long_lists_are_cut_and_counted(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(coco, "train", lambda v: [a.update(bbox=[0, 0, 0, 0]) for a in v["annotations"]])
    with pytest.raises(SystemExit):
        validate(coco, max_examples=1)
    report = json.loads((coco.parent / "validate" / "report.json").read_text())
    assert report["errors"][0]["count"] == 2
    assert len(report["errors"][0]["examples"]) == 1
    assert "2 times a box of no size" in capsys.readouterr().err


def test_the_html_report_escapes_names(coco: Path) -> None:
    for name in ("train", "valid", "test"):
        edit(coco, name, lambda v: v["categories"][0].update(name="<script>&"))
    validate(coco)
    text = (coco.parent / "validate" / "report.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;&amp;" in text
    HTMLParser().feed(text)
