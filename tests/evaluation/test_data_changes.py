"""What changed from one dataset to another."""

import json
from pathlib import Path
from typing import Any

import pytest

from segtune.dataset.coco import SPLITS, read_manifest, read_split
from segtune.dataset.image_pairs import Dataset, pair_images
from segtune.evaluation.data_changes import ComparedData, ObjectChanges, compare_data
from tests.clean_dataset import edit, edit_all, write_clean_dataset
from tests.results_folders import copy_data, move, remove


def read(coco: Path) -> Dataset:
    splits = {name: read_split(coco / f"{name}.json") for name in SPLITS}
    return Dataset(splits, {e.path: e.sha256 for e in read_manifest(coco).images})


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write_clean_dataset(tmp_path / "old")


@pytest.fixture
def new(old: Path, tmp_path: Path) -> Path:
    return copy_data(old, tmp_path / "new")


def compare(old: Path, new: Path) -> ComparedData:
    before, after = read(old), read(new)
    return compare_data(before, after, pair_images(before, after))


def test_nothing_changed(old: Path, new: Path) -> None:
    changes = compare(old, new).changes
    for split in changes.splits.values():
        assert split.images_before == split.images_after and split.objects == ObjectChanges()
        assert not (split.added or split.removed or split.replaced or split.relabeled)
    assert not (changes.classes_added or changes.classes_removed or changes.prompts)


def test_images_are_added_removed_and_moved(old: Path, new: Path) -> None:
    remove(new, (1,), "train")
    move(new, (2,), "train", "test")
    move(new, (3,), "valid", "test")
    forth = compare(old, new).changes.splits
    assert forth["train"].removed == ("train/1.png",)
    assert forth["test"].moved_here == {"train": ("train/2.png",), "valid": ("valid/3.png",)}
    assert forth["test"].images_after == 5
    assert not forth["test"].added and not forth["test"].relabeled
    back = compare(new, old).changes.splits
    assert back["train"].added == ("train/1.png",)
    assert back["train"].moved_here == {"test": ("train/2.png",)}


def test_labels_are_compared_in_images_that_moved_too(old: Path, new: Path) -> None:
    edit(new, "train", lambda v: v["annotations"].remove(of_image(v, 2)[0]))
    edit(new, "train", lambda v: of_image(v, 5)[0].update(category_id=2))
    move(new, (2,), "train", "test")
    changes = compare(old, new).changes.splits
    assert changes["test"].relabeled == ("train/2.png",)
    assert changes["test"].objects == ObjectChanges(removed=1)
    assert changes["train"].relabeled == ("train/5.png",)
    assert changes["train"].objects == ObjectChanges(reclassified=1)


def of_image(values: dict[str, Any], number: int) -> list[dict[str, Any]]:
    return [a for a in values["annotations"] if a["image_id"] == number]


def test_a_renamed_class_is_still_the_same(old: Path, new: Path) -> None:
    edit_all(new, lambda v: v["categories"][0].update(name="circle", prompt="a circle"))
    found = compare(old, new)
    assert found.changes.classes_renamed == {"disc": "circle"}
    assert found.common == {"disc": "circle", "plate": "plate"}
    assert not found.changes.classes_added and not found.changes.classes_removed
    assert all(split.objects == ObjectChanges() for split in found.changes.splits.values())
    (prompt,) = found.changes.prompts
    assert (prompt.name, prompt.before, prompt.after) == ("circle", "disc", "a circle")


@pytest.mark.parametrize("added", [False, True])
def test_objects_that_were_removed_or_added_were_not_renamed(
    old: Path, new: Path, added: bool
) -> None:
    """Train has 12 discs that are circles now, and 12 objects that only one dataset has."""
    edit_all(new, lambda v: v["categories"][0].update(name="circle"))
    assert compare(old, new).changes.classes_renamed == {"disc": "circle"}
    edit(new if added else old, "train", add_discs)
    changes = compare(old, new).changes
    assert changes.classes_renamed == {}
    assert (changes.classes_removed, changes.classes_added) == (("disc",), ("circle",))
    train = changes.splits["train"].objects
    assert (train.added, train.removed, train.reclassified) == ((0, 12), (12, 0))[added] + (12,)


def add_discs(values: dict[str, Any]) -> None:
    """One more in each image, in a corner."""
    corner = {"bbox": [0, 0, 6, 6], "area": 36, "segmentation": [[0, 0, 6, 0, 6, 6, 0, 6]]}
    first = {**values["annotations"][0], **corner}
    values["annotations"] += [
        {**first, "id": 1000 + image["id"], "image_id": image["id"]} for image in values["images"]
    ]


def test_a_class_that_was_split_is_gone(old: Path, new: Path) -> None:
    edit_all(new, split_discs)
    changes = compare(old, new).changes
    assert changes.classes_removed == ("disc",)
    assert changes.classes_added == ("large disc", "small disc")
    assert changes.splits["train"].objects == ObjectChanges(reclassified=12)


def split_discs(values: dict[str, Any]) -> None:
    values["categories"][0]["name"] = "large disc"
    values["categories"].append({**json.loads(json.dumps(values["categories"][1])), "id": 3})
    values["categories"][2]["name"] = "small disc"
    for place, a in enumerate(a for a in values["annotations"] if a["category_id"] == 1):
        a["category_id"] = (1, 3)[place % 2]


def test_a_file_with_the_same_name_and_other_content_was_replaced(old: Path, new: Path) -> None:
    edit(new, "manifest", lambda v: v["images"][0].update(sha256="0" * 64))
    name = json.loads((new / "manifest.json").read_text())["images"][0]["path"]
    changes = compare(old, new).changes.splits["train"]
    assert changes.replaced == (name,)
    assert not changes.added and not changes.removed
