"""Checks of a converted dataset: what is an error, and what a warning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.export_writer import HEIGHT, WIDTH, first
from tests.validate_runs import edit, page_of, report_of, validate, write_dataset


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


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


def set_rle(size: list[int], counts: list[int] | str | None) -> Callable[[dict[str, Any]], object]:
    return lambda values: first(values).update(segmentation={"size": size, "counts": counts})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train", lambda v: v.update(annotations=[]), "training split without objects"),
        ("test", lambda v: v.update(images=[], annotations=[]), "split without images"),
        ("test", lambda v: v["categories"].pop(), "split whose classes differ from"),
        ("train", lambda v: first(v).update(id=0), "duplicate or below 1"),
        ("train", lambda v: first(v).update(id=2), "duplicate or below 1"),
        ("train", lambda v: first(v).update(bbox=[35, 5, 10, 10]), "box beyond its image"),
        ("train", lambda v: first(v).update(bbox=[5, 5, 0, 10]), "empty box"),
        ("train", lambda v: first(v).update(bbox=[float("nan"), 5, 1, 1]), "empty box"),
        ("train", lambda v: first(v).update(category_id=9), "object of an unknown class"),
        (
            "train",
            lambda v: first(v).update(segmentation=[[1, 1, 1, 1, 1, 1]]),
            "mask that is empty",
        ),
        ("train", lambda v: first(v).update(segmentation={"size": [1, 1]}), "mask that is empty"),
        ("train", lambda v: first(v).update(segmentation=[["a"] * 6]), "mask that is empty"),
        ("train", lambda v: first(v).update(iscrowd=7), "area or iscrowd is not valid"),
        ("train", lambda v: first(v).update(area=float("nan")), "area or iscrowd is not valid"),
        # As many pixels, in another shape.
        ("train", set_rle([WIDTH, HEIGHT], [9, WIDTH * HEIGHT - 9]), "differs in size from its"),
        ("train", set_rle([HEIGHT, WIDTH], [WIDTH * HEIGHT]), "mask that is empty"),
        ("train", set_rle([HEIGHT, WIDTH], [9, 10 * WIDTH * HEIGHT]), "cannot be read"),
        ("train", set_rle([HEIGHT, WIDTH], None), "cannot be read"),
        ("train", set_rle([HEIGHT, WIDTH], "ZZZZ"), "cannot be read"),
        ("train", set_rle([HEIGHT, WIDTH], "0"), "cannot be read"),
        ("train", lambda v: v["images"][0].update(file_name="no.jpg"), "missing image"),
        ("manifest", lambda v: v["images"][0].update(size=1), "image that has changed"),
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
    assert any(message in problem["problem"] for problem in report_of(coco)["errors"])
    assert message in page_of(coco)


def test_a_class_without_a_prompt_is_an_error(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "valid", "test"):
        edit(coco, name, lambda v: v["categories"][0].update(prompt=" "))
    with pytest.raises(SystemExit):
        validate(coco)
    assert "class without a prompt" in capsys.readouterr().err


def test_an_rle_of_the_right_size_passes(coco: Path) -> None:
    edit(coco, "train", set_rle([HEIGHT, WIDTH], [9, WIDTH * HEIGHT - 9]))
    assert validate(coco)["errors"] == []


def test_two_classes_with_the_same_prompt_are_an_error(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "valid", "test"):
        edit(coco, name, lambda v: v["categories"][0].update(prompt="CAT"))
    with pytest.raises(SystemExit):
        validate(coco)
    assert "prompt of more than one class ('cat')" in capsys.readouterr().err


def test_an_image_in_two_splits_is_a_warning(coco: Path) -> None:
    def copy_hash(values: dict[str, Any]) -> None:
        by_path = {record["path"]: record for record in values["images"]}
        train, test = (next(p for p in by_path if p.startswith(s)) for s in ("train", "test"))
        by_path[test]["sha256"] = by_path[train]["sha256"]

    edit(coco, "manifest", copy_hash)
    (warning,) = validate(coco)["warnings"]
    assert "in both train and test" in warning["problem"]
    assert warning["count"] == 1
    assert "train/train0" in warning["examples"][0]


def test_a_class_without_objects_is_a_warning(coco: Path) -> None:
    edit(coco, "valid", lambda v: first(v).update(category_id=2))
    (warning,) = validate(coco)["warnings"]
    assert warning["problem"] == "class without objects in valid"
    assert warning["examples"] == ["big_dog"]


def test_more_objects_of_a_class_than_queries_are_a_warning(coco: Path) -> None:
    def crowd(values: dict[str, Any]) -> None:
        values["annotations"] = [{**first(values), "id": n} for n in range(1, 14)]

    edit(coco, "valid", crowd)
    (crowded,) = (w for w in validate(coco)["warnings"] if "more objects" in w["problem"])
    assert "than the 12 that the model detects" in crowded["problem"]
    assert crowded["count"] == 1
    assert crowded["examples"][0].startswith("valid: ") and "13 of" in crowded["examples"][0]
    assert not any(
        "more objects" in w["problem"] for w in validate(coco, "--model", "full")["warnings"]
    )
