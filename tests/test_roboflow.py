"""Finding an export: folders, zips, split names, and what is refused."""

import json
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from segtune.errors import ExportError
from segtune.roboflow import read_export
from tests.exports import write_export, zip_export


def test_a_folder_is_read_where_it_lies(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    root, sources = read_export(export, tmp_path / "unpacked")
    assert root == export.resolve()
    assert list(sources) == ["train", "valid", "test"]
    assert not (tmp_path / "unpacked").exists()
    for name, source in sources.items():
        assert source.annotations.parent.name == name
        assert all(path.is_file() for path in source.images.values())


@pytest.mark.parametrize("prefix", ["", "my-project/", "a/b/"])
def test_a_zip_is_unpacked_whole(tmp_path: Path, prefix: str) -> None:
    export = write_export(tmp_path / "export")
    (export / "train" / "._junk.json").write_text("junk")
    (export / "__MACOSX").mkdir()
    (export / "__MACOSX" / "data.yaml").write_text("junk")
    archive = zip_export(export, tmp_path / "export.zip", prefix)
    root, sources = read_export(archive, tmp_path / "out" / "images")
    assert root.is_relative_to((tmp_path / "out" / "images").resolve())
    for source in sources.values():
        for path in source.images.values():
            original = export / path.relative_to(root)
            assert path.read_bytes() == original.read_bytes()
    assert not list(root.rglob("*junk*"))
    # Again, onto what is there already.
    assert read_export(archive, tmp_path / "out" / "images")[0] == root


def test_val_is_valid(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "valid").rename(export / "val")
    assert read_export(export, tmp_path)[1]["valid"].annotations.parent.name == "val"
    (export / "valid").mkdir()
    with pytest.raises(ExportError, match="both valid/ and val/ exist"):
        read_export(export, tmp_path)


def test_moved_pictures_and_a_renamed_json_are_found(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "train" / "images").mkdir()
    for path in (export / "train").glob("*.jpg"):
        path.rename(export / "train" / "images" / path.name)
    (export / "train" / "_annotations.coco.json").rename(export / "train" / "labels.json")
    (export / "train" / "._labels.json").write_text("junk")
    source = read_export(export, tmp_path)[1]["train"]
    assert source.annotations.name == "labels.json"
    assert all(path.parent.name == "images" for path in source.images.values())
    (export / "train" / "more.json").write_text("{}")
    with pytest.raises(ExportError, match=r"2 JSON files: labels\.json, more\.json\."):
        read_export(export, tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such file or folder"),
        (lambda folder: folder.mkdir(), "nothing is in it"),
        (lambda folder: folder.write_text("text"), "no readable zip"),
        (lambda folder: write_export(folder, splits=("train", "test")), "there is no valid split"),
        (lambda folder: write_export(folder, splits=("train", "valid")), "there is no test split"),
    ],
)
def test_no_export_gives_one_clear_line(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "export")
    with pytest.raises(ExportError, match=message) as raised:
        read_export(tmp_path / "export", tmp_path / "unpacked")
    assert raised.value.file == str(tmp_path / "export")
    assert raised.value.remedy
    assert not (tmp_path / "unpacked").exists()


def test_one_json_per_picture_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number in range(9):
        (tmp_path / "train" / f"{number}.json").write_text("{}")
    with pytest.raises(ExportError, match=r"9 JSON files: 0\.json, 1\.json, 2\.json, …\."):
        read_export(tmp_path, tmp_path / "unpacked")


def test_a_split_is_missed_whatever_lies_beside_it(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", splits=("train", "test"))
    (export / "data.yaml").write_text("names: [cat]")
    with pytest.raises(ExportError, match="there is no valid split"):
        read_export(export, tmp_path / "unpacked")
    for split in ("train", "test"):
        (export / split / "_annotations.coco.json").rename(export / split / "labels.json")
    with pytest.raises(ExportError, match="there is no valid split"):
        read_export(export, tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("data.yaml", "YOLO"),
        ("train/_annotations.createml.json", "CreateML"),
        ("train/picture.xml", "Pascal VOC"),
    ],
)
def test_another_format_is_named(tmp_path: Path, file: str, name: str) -> None:
    path = tmp_path / "export" / file
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(ExportError, match=f"this is a {name} export.*COCO"):
        read_export(tmp_path / "export", tmp_path / "unpacked")


def link(archive: zipfile.ZipFile) -> None:
    member = zipfile.ZipInfo("train/link.jpg")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(member, "/etc/passwd")


def twice(archive: zipfile.ZipFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile itself warns, and writes it
        archive.writestr("README.dataset.txt", "one")
        archive.writestr("readme.dataset.TXT", "two")


@pytest.mark.parametrize(
    ("table", "record", "message"),
    [
        ("categories", {"id": 1, "name": "bird"}, "category 1: 'big_dog' and 'bird' have one id"),
        ("categories", {"name": "bird"}, "category None: id None is no whole number"),
        ("annotations", {"id": 7, "image_id": [0]}, r"annotation 7: image_id \[0\] is no whole"),
        (
            "annotations",
            {"id": 7, "image_id": 0, "category_id": "1"},
            "annotation 7: category_id '1' is no whole number",
        ),
    ],
)
def test_ids_that_could_mix_things_up_are_refused(
    tmp_path: Path, table: str, record: dict[str, object], message: str
) -> None:
    export = write_export(tmp_path / "export", lambda values: values[table].append(record))
    with pytest.raises(ExportError, match=message):
        read_export(export, tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda z: z.writestr("../outside.txt", "x"), "leaves the folder"),
        (lambda z: z.writestr("train/../../outside.txt", "x"), "leaves the folder"),
        (lambda z: z.writestr("a\\..\\..\\outside.txt", "x"), "leaves the folder"),
        (lambda z: z.writestr("/tmp/outside.txt", "x"), "absolute path"),
        (lambda z: z.writestr("C:\\outside.txt", "x"), "absolute path"),
        (link, "is a link"),
        (twice, "is there twice"),
        (lambda z: z.writestr("./train/_annotations.coco.json", "{}"), "is there twice"),
        (lambda z: z.writestr("train/bomb.jpg", b"0" * 10_000_000), "more than 100 times"),
    ],
)
def test_a_hostile_zip_is_refused_before_anything_is_written(
    tmp_path: Path, spoil: Callable[[zipfile.ZipFile], object], message: str
) -> None:
    archive = zip_export(write_export(tmp_path / "export"), tmp_path / "export.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        spoil(opened)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=message):
        read_export(archive, tmp_path / "unpacked")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_too_large_for_a_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zip_export(write_export(tmp_path / "export"), tmp_path / "export.zip")
    with zipfile.ZipFile(archive) as opened:
        size = sum(member.file_size for member in opened.infolist())
    monkeypatch.setattr("segtune.roboflow.LARGEST_ZIP", size - 1)
    with pytest.raises(ExportError, match=f"more than {size - 1} bytes"):
        read_export(archive, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()
    monkeypatch.setattr("segtune.roboflow.LARGEST_ZIP", size)
    assert read_export(archive, tmp_path / "unpacked")


def test_a_damaged_zip_leaves_nothing(tmp_path: Path) -> None:
    archive = zip_export(write_export(tmp_path / "export"), tmp_path / "export.zip")
    content = bytearray(archive.read_bytes())
    content[200:400] = bytes(200)
    archive.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match="no readable zip"):
        read_export(archive, tmp_path / "unpacked")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_was_there_is_never_replaced(tmp_path: Path) -> None:
    archive = zip_export(write_export(tmp_path / "export"), tmp_path / "export.zip")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").write_text("the only copy")
    with pytest.raises(ExportError, match=r"exists and is not segtune's.*another folder"):
        read_export(archive, tmp_path / "images")
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["mine.jpg"]


def test_what_an_earlier_zip_left_is_replaced_whole(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "train" / "notes.txt").write_text("gone in the next version")
    read_export(zip_export(export, tmp_path / "1.zip"), tmp_path / "unpacked")
    (export / "train" / "notes.txt").unlink()
    root, _ = read_export(zip_export(export, tmp_path / "2.zip"), tmp_path / "unpacked")
    assert json.loads((root / "train" / "_annotations.coco.json").read_text())
    assert not (root / "train" / "notes.txt").exists()
