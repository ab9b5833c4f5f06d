"""One table of classes: what is dropped, merged and added."""

from pathlib import Path

import pytest

from tests.conversion import convert, converted, rules
from tests.export_writer import set_categories, set_first, write_export


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


def test_splits_with_different_classes_share_one_table(tmp_path: Path) -> None:
    values = converted(tmp_path, set_categories((1, "cat", "x"), (2, "bird", "x")))
    names = {c["id"]: c["name"] for c in values["test"]["categories"]}
    assert names == {1: "cat", 2: "bird", 3: "big_dog"}
    assert values["train"]["categories"] == values["test"]["categories"]
    # By name, whatever its id was in each split.
    assert [names[a["category_id"]] for a in values["train"]["annotations"]] == ["cat", "bird"]
    assert [names[a["category_id"]] for a in values["test"]["annotations"]] == ["big_dog", "cat"]
    assert rules(values)["classes missing from the split's categories added"] == 3
