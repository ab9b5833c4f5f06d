"""Fields of an image for its prompts: from its record or a CSV."""

from pathlib import Path
from typing import Any

import pytest

from segtune.dataset.coco import read_split
from tests.conversion import convert, refused
from tests.export_writer import TEMPLATE, originals, with_table, write_export


def seen_from(views: list[str]) -> Any:
    """Image records with a field: the side that the image was taken from."""
    return lambda v: [i.update(view=w) for i, w in zip(v["images"], views, strict=True)]


@pytest.mark.parametrize(
    "names", [originals(), [name.replace(".jpg", "_jpg.jpg") for name in originals()]]
)
def test_a_csv_may_list_images_by_the_name_of_their_original(
    tmp_path: Path, names: list[str]
) -> None:
    export = with_table(tmp_path, names)
    convert(export, tmp_path / "out", template=TEMPLATE, fields="views.csv")
    split = read_split(tmp_path / "out" / "valid.json")
    prompts = [split.prompts(image) for image in split.images]
    assert prompts == [
        {1: "big dog, from 2 view", 2: "cat, from 2 view"},
        {1: "big dog, from 3 view", 2: "cat, from 3 view"},
    ]


def test_the_record_of_an_image_has_fields_too(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        export = write_export(tmp_path / "export" / split, seen_from(["top", "side"]), ("train",))
        (export / "train").rename(tmp_path / "export" / f"{split}.folder")
        export.rmdir()
        (tmp_path / "export" / f"{split}.folder").rename(tmp_path / "export" / split)
    convert(tmp_path / "export", tmp_path / "out", template="{name} from the {view}")
    split = read_split(tmp_path / "out" / "test.json")
    assert split.prompts(split.images[1])[2] == "cat from the side"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": TEMPLATE}, "image train0_jpg.rf."),
        ({"template": TEMPLATE, "fields": "gone.csv"}, "no such file"),
        ({"template": "a {view} thing", "fields": "views.csv"}, "has no {name}"),
        ({"template": "{name} {light}", "fields": "views.csv"}, "['light']"),
        ({"template": "{name} " + "and so on " * 12}, "SAM 3 reads 32"),
        ({"prompts": {"cat": "a cat that sits " * 9}}, "SAM 3 reads 32"),
    ],
)
def test_prompts_that_cannot_be_made_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], message: str
) -> None:
    export = with_table(tmp_path, originals())
    assert message in refused(export, tmp_path / "out", capsys, **options)


def test_an_image_that_is_listed_twice_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = with_table(tmp_path, originals(), "train0.jpg,elsewhere\n")
    options = {"template": TEMPLATE, "fields": "views.csv"}
    assert "line 8: train0.jpg is a duplicate" in refused(
        export, tmp_path / "out", capsys, **options
    )


@pytest.mark.parametrize("text", ["from\x1b[2J above", "a" * 501])
def test_a_field_that_cannot_be_a_prompt_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    export = with_table(tmp_path, originals())
    table = tmp_path / "views.csv"
    table.write_text(table.read_text().replace("from 0", text))
    line = refused(export, tmp_path / "out", capsys, template=TEMPLATE, fields="views.csv")
    assert "the field 'view' of convert.template is '" in line
