"""The converted dataset: what is written is read again, and damaged files are refused."""

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segtune.core.errors import DatasetError
from segtune.dataset.coco import (
    MANIFEST,
    Annotation,
    Category,
    Image,
    Manifest,
    ManifestEntry,
    Split,
    has_masks,
    read_manifest,
    read_split,
    read_unchecked_split,
    with_rle_masks,
    write_manifest,
    write_split,
)
from segtune.dataset.masks import mask_to_rle, segmentation_to_mask
from tests.converted import SIDE, write_converted


def annotation(number: int, image: int, **changes: Any) -> Annotation:
    values: dict[str, Any] = {
        "category_id": 1,
        "bbox_xywh": (2.0, 3.0, 10.0, 4.0),
        "area": 40.0,
        "segmentation": [[2.0, 3.0, 12.0, 3.0, 12.0, 7.0, 2.0, 7.0]],
        "iscrowd": 0,
    }
    return Annotation(id=number, image_id=image, **(values | changes))


def varied(root: Path) -> Split:
    """Polygons, a crowd and a box-only object; an image without any, fields and originals."""
    crowd = mask_to_rle(np.eye(20, 30, dtype=np.uint8))
    return Split(
        name="train",
        root=root,
        categories=(Category(1, "ä cat", "a {kind} cat", "animals"), Category(2, "dog", "dog")),
        images=(
            Image(7, "train/1.png", 30, 20, fields={"kind": "gray"}, original="one.jpg"),
            Image(3, "train/2.png", 30, 20),
            Image(4, "train/ü.png", 30, 20),
        ),
        annotations={
            7: (annotation(1, 7), annotation(5, 7, segmentation=crowd, iscrowd=1)),
            3: (),
            4: (annotation(2, 4, segmentation=None, category_id=2),),
        },
    )


def empty_manifest(folder: Path) -> Manifest:
    manifest = Manifest(folder.resolve(), ())
    write_manifest(folder / MANIFEST, manifest, folder)
    return manifest


def test_a_written_split_is_read_again(tmp_path: Path) -> None:
    split = varied(empty_manifest(tmp_path).root)
    write_split(tmp_path / "train.json", split)
    assert read_split(tmp_path / "train.json") == split


def test_a_written_split_is_coco(tmp_path: Path) -> None:
    write_split(tmp_path / "train.json", varied(tmp_path))
    values = json.loads((tmp_path / "train.json").read_text("utf-8"))
    assert values.keys() == {"images", "annotations", "categories"}
    assert values["categories"][0] == {
        "id": 1,
        "name": "ä cat",
        "prompt": "a {kind} cat",
        "supercategory": "animals",
    }
    assert values["images"][0] == {
        "id": 7,
        "file_name": "train/1.png",
        "width": 30,
        "height": 20,
        "fields": {"kind": "gray"},
        "original": "one.jpg",
    }
    assert values["images"][1].keys() == {"id", "file_name", "width", "height"}
    assert values["annotations"][0] == {
        "id": 1,
        "image_id": 7,
        "category_id": 1,
        "bbox": [2.0, 3.0, 10.0, 4.0],
        "area": 40.0,
        "segmentation": [[2.0, 3.0, 12.0, 3.0, 12.0, 7.0, 2.0, 7.0]],
        "iscrowd": 0,
    }
    box_only = values["annotations"][2]
    assert (box_only["segmentation"], box_only["box_only"]) == ([], True)


def test_objects_are_found_by_image_and_category(tmp_path: Path) -> None:
    split = varied(tmp_path)
    assert [a.id for a in split.objects] == [1, 5, 2]
    assert [a.id for a in split.ground_truth(7, 1)] == [1, 5]
    assert [a.id for a in split.ground_truth(4, 2)] == [2]
    assert list(split.ground_truth(4, 1)) == list(split.ground_truth(3, 1)) == []


def test_reading_a_split_does_not_change_it(tmp_path: Path) -> None:
    # Another thread may be pickling it for another process.
    split = varied(tmp_path)
    before = set(vars(split))
    split.ground_truth(7, 1)
    split.prompts(split.images[0])
    assert set(vars(split)) == before
    assert pickle.loads(pickle.dumps(split)) == split


def test_prompts_are_filled_with_the_fields_of_an_image(tmp_path: Path) -> None:
    split = varied(tmp_path)
    assert split.prompts(split.images[0]) == {1: "a gray cat", 2: "dog"}
    assert split.prompts(split.images[1]) == {1: "a {kind} cat", 2: "dog"}


def test_rle_masks_have_the_same_pixels(tmp_path: Path) -> None:
    split = varied(tmp_path)
    converted = with_rle_masks(split)
    for mine, theirs in zip(converted.objects, split.objects, strict=True):
        assert replace(mine, segmentation=None) == replace(theirs, segmentation=None)
        assert (mine.segmentation is None) == (theirs.segmentation is None)
        if mine.segmentation and theirs.segmentation:
            assert isinstance(mine.segmentation, dict)
            pixels = segmentation_to_mask(theirs.segmentation, 20, 30)
            assert np.array_equal(segmentation_to_mask(mine.segmentation, 20, 30), pixels)


def test_a_split_may_have_no_masks(tmp_path: Path) -> None:
    assert has_masks(varied(tmp_path))
    assert not has_masks(replace(varied(tmp_path), annotations={7: (), 3: (), 4: ()}))
    boxes = read_split(write_converted(tmp_path, masks=False) / "train.json")
    assert boxes.objects[0].segmentation is None
    assert not has_masks(boxes)


def test_a_split_of_the_helper_is_read_as_it_was_written(tmp_path: Path) -> None:
    split = read_split(write_converted(tmp_path) / "train.json")
    assert split.name == "train"
    assert [c.prompt for c in split.categories] == ["disc", "square", "cross"]
    assert split.annotations.keys() == {image.id for image in split.images}
    assert all(split.image_path(image).is_file() for image in split.images)
    first = split.annotations[1][0]
    assert segmentation_to_mask(first.segmentation or [], SIDE, SIDE).sum() == first.area


def manifest_of(root: Path) -> Manifest:
    return Manifest(root, (ManifestEntry("train/1.png", size=5, sha256="ab"),))


def written_root(folder: Path) -> str:
    root: str = json.loads((folder / MANIFEST).read_text())["root"]
    return root


def test_a_project_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    images, coco = project / "data" / "demo", project / "results" / "coco"
    images.mkdir(parents=True)
    monkeypatch.chdir(project)
    manifest = manifest_of(images)
    write_manifest(coco / MANIFEST, manifest, coco)
    assert written_root(coco) == "../../data/demo"
    assert read_manifest(coco) == manifest
    monkeypatch.chdir(tmp_path)
    moved = project.rename(tmp_path / "elsewhere")
    assert read_manifest(moved / "results" / "coco") == manifest_of(moved / "data" / "demo")


@pytest.mark.parametrize(("images", "coco"), [("out", "in/coco"), ("in/images", "out")])
def test_a_root_outside_the_working_directory_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: str, coco: str
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    manifest = manifest_of(tmp_path / images)
    write_manifest(tmp_path / coco / MANIFEST, manifest, tmp_path / coco)
    assert written_root(tmp_path / coco) == str(tmp_path / images)
    assert read_manifest(tmp_path / coco) == manifest


def test_a_root_inside_the_folder_is_always_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    coco = tmp_path / "results" / "coco"
    (coco / "images").mkdir(parents=True)
    write_manifest(coco / MANIFEST, manifest_of(coco / "images"), coco)
    assert written_root(coco) == "images"
    assert read_manifest(coco).root == coco / "images"


def test_a_project_whose_results_are_a_link_can_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, disk = tmp_path / "project", tmp_path / "disk"
    (project / "data" / "demo").mkdir(parents=True)
    (disk / "coco").mkdir(parents=True)
    (project / "results").symlink_to(disk)
    monkeypatch.chdir(project)
    coco = Path("results") / "coco"
    write_manifest(coco / MANIFEST, manifest_of(project / "data" / "demo"), coco)
    assert written_root(coco) == "../../data/demo"
    monkeypatch.chdir(tmp_path)
    moved = project.rename(tmp_path / "moved")
    monkeypatch.chdir(moved)
    assert read_manifest(coco).root.is_dir()


def test_a_root_is_relative_to_where_the_manifest_will_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    staged, coco = tmp_path / "coco" / ".staged", tmp_path / "coco"
    write_manifest(staged / MANIFEST, manifest_of(tmp_path / "images"), coco)
    (staged / MANIFEST).rename(coco / MANIFEST)
    assert read_manifest(coco).root == tmp_path / "images"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.json", None, "cannot read the dataset.*Run segtune.convert first"),
        ("train.json", "{", "cannot read the dataset"),
        ("train.json", "{}", "not a converted dataset"),
        ("train.json", '{"images": [{"id": 1}]}', "not a converted dataset"),
        ("manifest.json", None, "cannot read the dataset"),
        ("manifest.json", "[]", "not a converted dataset"),
        ("manifest.json", '{"root": ".", "images": [{"path": "a"}]}', "not a converted dataset"),
    ],
)
def test_a_damaged_dataset_is_refused(
    tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    coco = write_converted(tmp_path)
    (coco / file).unlink()
    if content is not None:
        (coco / file).write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_split(coco / "train.json")


def test_an_annotation_in_an_unknown_image_is_refused(tmp_path: Path) -> None:
    coco = write_converted(tmp_path)
    values = json.loads((coco / "train.json").read_text())
    values["annotations"][0]["image_id"] = 99
    (coco / "train.json").write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=r"not a converted dataset \(KeyError\(99\)\)"):
        read_split(coco / "train.json")


FAR = [0.0, 0.0, 1e6, 0.0, 0.0, 1e6]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        ("annotations", {"segmentation": [["a"] * 6]}, "a polygon is not a list of numbers"),
        ("annotations", {"segmentation": [FAR] * 99}, "polygons with an outline of"),
        ("annotations", {"segmentation": [[1, 1, 5, 5]]}, "a polygon has fewer than three"),
        ("annotations", {"segmentation": [[1e999] * 6]}, "a polygon has coordinates beyond"),
        (
            "annotations",
            {"segmentation": {"size": [SIDE, SIDE], "counts": [2**32]}},
            "RLE whose counts are not run lengths",
        ),
        ("annotations", {"segmentation": {"size": [9**9, 9**9], "counts": "0"}}, "RLE of size"),
        ("annotations", {"bbox": [float("nan"), 1, 1, 1]}, "a box or an area that is not finite"),
        ("annotations", {"area": float("nan")}, "a box or an area that is not finite"),
        ("annotations", {"category_id": 99}, "category_id 99 does not exist"),
        ("annotations", {"iscrowd": 7}, "iscrowd is 7 instead of 0 or 1"),
        ("annotations", {"id": 2}, "id 2 is a duplicate"),
        ("categories", {"id": 2}, "id 2 is a duplicate"),
        ("images", {"id": 2}, "id 2 is a duplicate"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(
    tmp_path: Path, table: str, changes: dict[str, Any], message: str
) -> None:
    coco = write_converted(tmp_path)
    values = json.loads((coco / "train.json").read_text())
    values[table][0] |= changes
    if table == "images":
        values["annotations"] = [a for a in values["annotations"] if a["image_id"] != 1]
    (coco / "train.json").write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=message) as raised:
        read_split(coco / "train.json")
    assert raised.value.file == str(coco / "train.json")
    assert re.fullmatch(r"(annotation|category|image) \d+", raised.value.record or "")
    read_unchecked_split(coco / "train.json")


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        ("images", {"width": "30"}, "width is '30'"),
        ("images", {"width": True}, "width is True"),
        ("images", {"width": 10**6, "height": 10**6}, "an image of 1000000 x 1000000 pixels"),
        ("images", {"file_name": "\ud800"}, "surrogates not allowed"),
        ("images", {"fields": {"kind": 7}}, "kind is 7"),
        ("images", {"fields": [1]}, "not a converted dataset"),
        ("annotations", {"id": 2**63}, "id is 9223372036854775808"),
        ("annotations", {"image_id": [1]}, r"image_id is \[1\]"),
        ("annotations", {"bbox": {"a": 1}}, "not a converted dataset"),
        ("annotations", {"bbox": [1, 1, "2", 2]}, "a number is '2'"),
        ("annotations", {"area": 10**400}, "a number is 1000"),
        ("annotations", {"segmentation": "polygon"}, "segmentation is 'polygon'"),
        ("categories", {"name": None}, "name is None"),
    ],
)
def test_a_value_of_another_type_is_refused(
    tmp_path: Path, table: str, changes: dict[str, Any], message: str
) -> None:
    coco = write_converted(tmp_path)
    values = json.loads((coco / "train.json").read_text())
    values[table][0] |= changes
    (coco / "train.json").write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=rf"train\.json: .*{message}") as raised:
        read_split(coco / "train.json")
    assert len(str(raised.value)) < 600
