"""Zip files: unpacked whole, or refused before anything is written."""

import json
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from segtune.core.errors import ExportError
from tests.conversion import read_export
from tests.export_writer import write_export, zip_export


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
