"""Finding an export: folders, zips, split names, and what is refused."""

import json
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from segtune.core.config import ConvertSettings
from segtune.core.errors import ConfigError, ExportError
from segtune.exports.reader import Export
from segtune.exports.reader import read_export as read_with
from tests.export_writer import write_export, zip_export


def read_export(export: Path, unpacked: Path) -> Export:
    return read_with(export, unpacked, ConvertSettings())


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


@pytest.mark.parametrize("prefix", ["", "my-project/", "a/b/"])
def test_a_zip_file_is_unpacked_whole(tmp_path: Path, prefix: str) -> None:
    export = write_export(tmp_path / "export")
    (export / "train" / "._junk.json").write_text("junk")
    (export / "__MACOSX").mkdir()
    (export / "__MACOSX" / "data.yaml").write_text("junk")
    archive = zip_export(export, tmp_path / "export.zip", prefix)
    found = read_export(archive, tmp_path / "out" / "images")
    root, sources = found.root, found.splits
    assert root.is_relative_to((tmp_path / "out" / "images").resolve())
    for source in sources.values():
        for image in source.images:
            original = export / image.path.relative_to(root)
            assert image.path.read_bytes() == original.read_bytes()
    assert not list(root.rglob("*junk*"))
    # Again, over the first result.
    assert read_export(archive, tmp_path / "out" / "images").root == root


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
        (export / split / "_annotations.createml.json").write_text("[]")
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


def link(archive: zipfile.ZipFile) -> None:
    member = zipfile.ZipInfo("train/link.jpg")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(member, "/etc/passwd")


def twice(archive: zipfile.ZipFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns, and writes it all the same
        archive.writestr("README.dataset.txt", "one")
        archive.writestr("readme.dataset.TXT", "two")


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
    ("corrupt", "message"),
    [
        (lambda z: z.writestr("../outside.txt", "x"), "leaves the folder"),
        (lambda z: z.writestr("train/../../outside.txt", "x"), "leaves the folder"),
        (lambda z: z.writestr("a\\..\\..\\outside.txt", "x"), "leaves the folder"),
        (lambda z: z.writestr("/tmp/outside.txt", "x"), "absolute path"),
        (lambda z: z.writestr("C:\\outside.txt", "x"), "absolute path"),
        (link, "is a link"),
        (twice, "is a duplicate"),
        (lambda z: z.writestr("./train/_annotations.coco.json", "{}"), "is a duplicate"),
        (lambda z: z.writestr("train/bomb.jpg", b"0" * 10_000_000), "more than 100 times"),
    ],
)
def test_a_hostile_zip_file_is_refused_before_anything_is_written(
    tmp_path: Path, corrupt: Callable[[zipfile.ZipFile], object], message: str
) -> None:
    archive = zip_export(write_export(tmp_path / "export"), tmp_path / "export.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        corrupt(opened)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=message):
        read_export(archive, tmp_path / "unpacked")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_file_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zip_export(write_export(tmp_path / "export"), tmp_path / "export.zip")
    with zipfile.ZipFile(archive) as opened:
        size = sum(member.file_size for member in opened.infolist())
    monkeypatch.setattr("segtune.exports.archive.MAX_UNPACKED_BYTES", size - 1)
    with pytest.raises(ExportError, match=f"more than {size - 1} bytes"):
        read_export(archive, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()
    monkeypatch.setattr("segtune.exports.archive.MAX_UNPACKED_BYTES", size)
    assert read_export(archive, tmp_path / "unpacked")


def test_a_damaged_zip_file_leaves_nothing(tmp_path: Path) -> None:
    archive = zip_export(write_export(tmp_path / "export"), tmp_path / "export.zip")
    content = bytearray(archive.read_bytes())
    content[200:400] = bytes(200)
    archive.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match="cannot read the zip file"):
        read_export(archive, tmp_path / "unpacked")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_the_user_is_never_replaced(tmp_path: Path) -> None:
    archive = zip_export(write_export(tmp_path / "export"), tmp_path / "export.zip")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").write_text("the only copy")
    with pytest.raises(ExportError, match=r"was not created by segtune.*another folder"):
        read_export(archive, tmp_path / "images")
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["mine.jpg"]


def test_the_files_of_an_earlier_zip_file_are_replaced(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "train" / "notes.txt").write_text("gone in the next version")
    read_export(zip_export(export, tmp_path / "1.zip"), tmp_path / "unpacked")
    (export / "train" / "notes.txt").unlink()
    root = read_export(zip_export(export, tmp_path / "2.zip"), tmp_path / "unpacked").root
    assert json.loads((root / "train" / "_annotations.coco.json").read_text())
    assert not (root / "train" / "notes.txt").exists()
