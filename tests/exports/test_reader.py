"""Finding an export: folders, split names, formats, and what is refused."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
from segtune.exports import reader
from segtune.exports.reader import read_export as read_with
from tests.conversion import read_export
from tests.export_writer import Values, write_export
from tests.exports.test_fuzzing import scene
from tests.format_writers import COLUMNS, WRITERS


def test_a_folder_is_read_in_place(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    found = read_export(export, tmp_path / "unpacked")
    sources = found.splits
    assert found.root == export.resolve()
    assert found.format == "coco"
    assert list(sources) == ["train", "valid", "test"]
    assert not (tmp_path / "unpacked").exists()
    for name, source in sources.items():
        assert source.path.parent.name == name
        assert all(image.path.is_file() for image in source.images)


def test_val_is_valid(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "valid").rename(export / "val")
    assert read_export(export, tmp_path).splits["valid"].path.parent.name == "val"
    (export / "valid").mkdir()
    with pytest.raises(ExportError, match="both valid/ and val/ exist"):
        read_export(export, tmp_path)


def test_moved_images_and_a_renamed_json_are_found(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "train" / "images").mkdir()
    for path in (export / "train").glob("*.jpg"):
        path.rename(export / "train" / "images" / path.name)
    (export / "train" / "_annotations.coco.json").rename(export / "train" / "labels.json")
    (export / "train" / "._labels.json").write_text("junk")
    source = read_export(export, tmp_path).splits["train"]
    assert source.path.name == "labels.json"
    assert all(image.path.parent.name == "images" for image in source.images)
    (export / "train" / "more.json").write_text('{"images": []}')
    with pytest.raises(ExportError, match=r"2 COCO files: labels\.json, more\.json\."):
        read_export(export, tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such file or folder"),
        (lambda folder: folder.mkdir(), "contains no files"),
        (lambda folder: (folder / "a").mkdir(parents=True), "contains no files"),
        (
            lambda folder: (folder / "train").mkdir(parents=True),
            "contains no annotations of a known",
        ),
        (lambda folder: (folder / "a.txt", folder.mkdir())[0].touch(), "contains no train/, "),
        (lambda folder: folder.write_text("text"), "cannot read the zip file"),
    ],
)
def test_what_is_not_an_export_is_refused(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "export")
    with pytest.raises(ExportError, match=message) as raised:
        read_export(tmp_path / "export", tmp_path / "unpacked")
    assert raised.value.file == str(tmp_path / "export")
    assert raised.value.fix
    assert not (tmp_path / "unpacked").exists()


def test_missing_splits_are_left_out(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", splits=("train", "test"))
    assert list(read_export(export, tmp_path / "unpacked").splits) == ["train", "test"]
    (export / "train").rename(export / "valid")
    with pytest.raises(ExportError, match="contains no train split"):
        read_export(export, tmp_path / "unpacked")


def test_a_split_without_annotations_is_not_skipped(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "valid" / "_annotations.coco.json").unlink()
    with pytest.raises(ExportError, match="valid: contains no coco annotations"):
        read_export(export, tmp_path / "unpacked")


def test_the_settings_choose_between_two_formats(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    for split in ("train", "valid", "test"):
        (name,) = (path.name for path in (export / split).glob(f"{split}0*.jpg"))
        box = {"label": "cat", "coordinates": {"x": 9, "y": 9, "width": 4, "height": 4}}
        entries = [{"image": name, "annotations": [box]}]
        (export / split / "_annotations.createml.json").write_text(json.dumps(entries))
    with pytest.raises(ConfigError, match=r"coco and createml.*\{format: coco\}"):
        read_export(export, tmp_path / "unpacked")
    found = read_with(export, tmp_path / "unpacked", ConvertSettings(format="createml"))
    assert found.format == "createml"


def test_a_format_that_is_not_chosen_may_be_damaged(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "data.yaml").write_text("names: [a")
    with pytest.raises(ExportError, match="cannot read the YAML"):
        read_export(export, tmp_path / "unpacked")
    found = read_with(export, tmp_path / "unpacked", ConvertSettings(format="coco"))
    assert found.format == "coco"


@pytest.mark.parametrize(
    ("table", "record", "message"),
    [
        (
            "categories",
            {"id": 1, "name": "bird"},
            "category 1: 'big_dog' and 'bird' have the same id",
        ),
        ("categories", {"name": "bird"}, "category None: id None is not an integer"),
        (
            "annotations",
            {"id": 7, "image_id": [0]},
            r"annotation 7: image_id \[0\] is not an integer",
        ),
        (
            "annotations",
            {"id": 7, "image_id": 0, "category_id": "1"},
            "annotation 7: category_id '1' is not an integer",
        ),
    ],
)
def test_ambiguous_ids_are_refused(
    tmp_path: Path, table: str, record: dict[str, object], message: str
) -> None:
    export = write_export(tmp_path / "export", lambda values: values[table].append(record))
    with pytest.raises(ExportError, match=message):
        read_export(export, tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("kind", "empty"),
    [
        ("createml", lambda f: (f / "_annotations.createml.json").write_text("[]")),
        ("tensorflow", lambda f: (f / "_annotations.csv").write_text(",".join(COLUMNS))),
        ("yolo", lambda f: [p.rename(p.with_suffix(".text")) for p in (f / "labels").iterdir()]),
        ("voc", lambda f: [p.write_text("<annotation/>") for p in f.glob("*.xml")]),
    ],
)
def test_a_split_whose_labels_hold_no_objects_is_refused(
    tmp_path: Path, kind: str, empty: Callable[[Path], object]
) -> None:
    folder = tmp_path / "export"
    WRITERS[kind](folder, scene(kind))
    empty(folder / "valid")
    with pytest.raises(ExportError, match="the valid split has 1 images and labels, but no obj"):
        read_export(folder, tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("kind", "empty"),
    [
        ("coco", lambda f: write_coco(f, [])),
        ("yolo", lambda f: [p.write_text("") for p in (f / "labels").iterdir()]),
        ("yolo", lambda f: [p.write_text(" \n\n") for p in (f / "labels").iterdir()]),
    ],
)
def test_a_split_that_says_that_it_has_no_objects_is_read(
    tmp_path: Path, kind: str, empty: Callable[[Path], object]
) -> None:
    folder = tmp_path / "export"
    WRITERS[kind](folder, scene(kind))
    empty(folder / "valid")
    found = read_export(folder, tmp_path / "unpacked").splits["valid"]
    assert (len(found.images), len(found.annotations)) == (1, 0)


@pytest.mark.parametrize("name", ["a" * 5000, "a/" * 5000])
def test_an_export_that_no_disk_has_is_one_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match=r"File name too long\. Check `export`"):
        read_export(tmp_path / name, tmp_path / "unpacked")


@pytest.mark.parametrize("door", ["is_dir", "iterdir"])
def test_an_export_that_may_not_be_entered_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    def closed(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    export = write_export(tmp_path / "export")
    monkeypatch.setattr(Path, door, closed)
    if door == "is_dir":
        monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(ExportError, match=r"export: .*Permission denied"):
        read_export(export, tmp_path / "unpacked")


def test_an_export_that_does_not_fit_the_memory_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(reader, "_read_splits", full)
    with pytest.raises(ExportError, match=r"cannot be read \(too large for the memory\)"):
        read_export(write_export(tmp_path / "export"), tmp_path / "unpacked")


def test_one_image_under_two_names_is_refused(tmp_path: Path) -> None:
    def name_twice(values: Values) -> None:
        one = values["images"][0]
        values["images"].append({**one, "id": 9, "file_name": f"./{one['file_name']}"})

    export = write_export(tmp_path / "export", name_twice)
    with pytest.raises(ExportError, match=r"image 9: file_name '\./train0.* is a duplicate"):
        read_export(export, tmp_path / "unpacked")


def write_coco(folder: Path, annotations: list[object]) -> None:
    path = folder / "_annotations.coco.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": annotations}))
