"""The gate before training: errors stop it, warnings are counted, and a page shows both."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtune import validate_page
from segtune.convert import main as convert
from segtune.dataset.checks import MAX_EXAMPLES
from segtune.validate import main
from tests.export_writer import HEIGHT, WIDTH, write_export


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    convert(["--export", str(write_export(tmp_path / "export")), "--out", str(tmp_path / "coco")])
    return tmp_path / "coco"


def validate(coco: Path) -> dict[str, Any]:
    main(["--coco", str(coco), "--out", str(coco.parent / "validate")])
    return report_of(coco)


def report_of(coco: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((coco.parent / "validate" / "report.json").read_text())
    return report


def page_of(coco: Path, **settings: Any) -> str:
    folder = coco.parent / "validate"
    command = ["--report", str(folder / "report.json"), "--out", str(folder / "report.html")]
    validate_page.main([*command, "--settings", json.dumps(settings)])
    return (folder / "report.html").read_text("utf-8")


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
    assert "manifest.json: not a converted dataset" in capsys.readouterr().err


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


def test_the_output_is_short_and_the_report_is_long(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def add_empty_boxes(values: dict[str, Any]) -> None:
        values["annotations"] = [
            {**first(values), "id": n, "bbox": [0, 0, 0, 0]} for n in range(1, MAX_EXAMPLES + 3)
        ]

    edit(coco, "train", add_empty_boxes)
    with pytest.raises(SystemExit):
        validate(coco)
    (problem,) = report_of(coco)["errors"]
    assert problem["count"] == MAX_EXAMPLES + 2
    assert len(problem["examples"]) == MAX_EXAMPLES
    (line,) = capsys.readouterr().err.splitlines()
    assert "empty box, or box beyond its image (train: object 1 in" in line
    assert f"and {MAX_EXAMPLES - 1} more): run segtune.convert again" in line
    assert line.endswith("errors.html")
    assert len(line) < 600


def test_the_page_shows_as_many_examples_as_are_wanted(coco: Path) -> None:
    edit(coco, "train", lambda v: [a.update(bbox=[0, 0, 0, 0]) for a in v["annotations"]])
    with pytest.raises(SystemExit):
        validate(coco)
    examples = report_of(coco)["errors"][0]["examples"]
    text = page_of(coco, max_examples=1)
    assert '<header class="bad">' in text
    assert "2 places. How to fix it: run segtune.convert again." in text
    assert [example in text for example in examples] == [True, False]
    assert "<li>and 1 more</li>" in text
    text = page_of(coco)
    assert all(example in text for example in examples)
    assert "1 more" not in text


def test_the_page_says_whether_a_dataset_is_valid(coco: Path) -> None:
    validate(coco)
    text = page_of(coco)
    assert "<h1>The dataset is valid</h1>" in text
    assert '<th scope="row">big_dog</th><td>1</td>' in text
    edit(coco, "valid", lambda v: first(v).update(category_id=2))
    validate(coco)
    assert "<h1>The dataset is valid, with warnings of 1 kind</h1>" in page_of(coco)


@pytest.mark.parametrize("text", [None, "{}", '{"errors": [1], "warnings": [], "splits": {}}'])
def test_a_report_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    path = tmp_path / "report.json"
    if text:
        path.write_text(text)
    with pytest.raises(SystemExit) as raised:
        validate_page.main(["--report", str(path), "--out", str(tmp_path / "report.html")])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "report.json: cannot read the file" in line
    assert not (tmp_path / "report.html").exists()


def test_the_page_escapes_names(coco: Path) -> None:
    for name in ("train", "valid", "test"):
        edit(coco, name, lambda v: v["categories"][0].update(name="<script>&"))
    validate(coco)
    text = page_of(coco)
    assert "<script>" not in text
    assert "&lt;script&gt;&amp;" in text


def test_errors_have_a_page_that_no_rule_declares(coco: Path) -> None:
    edit(coco, "train", lambda values: values.update(annotations=[]))
    page = coco.parent / "validate" / "errors.html"
    with pytest.raises(SystemExit):
        validate(coco)
    assert "training split without objects" in page.read_text("utf-8")


def test_the_page_of_errors_goes_when_they_are_fixed(coco: Path) -> None:
    page = coco.parent / "validate" / "errors.html"
    page.parent.mkdir()
    page.write_text("old")
    validate(coco)
    assert not page.exists()
