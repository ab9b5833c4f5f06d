"""Zip files: unpacked whole, or refused before anything is written."""

import errno
import io
import json
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from PIL import Image

from segtune.core.errors import ExportError, ResourceError
from segtune.exports.archive import is_junk, unpack
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


def bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("train/bomb.jpg", b"0" * 10_000_000)
    archive.filelist[-1].file_size = 2**30


def overlap(archive: zipfile.ZipFile) -> None:
    archive.writestr("train/again.txt", "x" * 99)
    archive.filelist[-1].header_offset = archive.filelist[0].header_offset


def encrypt(archive: zipfile.ZipFile) -> None:
    archive.writestr("train/secret.txt", "x")
    archive.filelist[-1].flag_bits |= 1


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (overlap, "overlaps another one"),
        (encrypt, r"secret\.txt': is encrypted; .* Unpack it yourself"),
        (lambda z: z.writestr("a.txt", "x", zipfile.ZIP_BZIP2), "neither stored nor packed with"),
        (lambda z: z.writestr("a.txt", "x", zipfile.ZIP_LZMA), "neither stored nor packed with"),
        (lambda z: z.writestr("a\x1b[2J.txt", "x"), r"'a\\x1b\[2J.txt': has a name with control"),
        (lambda z: z.writestr("a" * 256, "x"), "has a name that is too long"),
        (lambda z: z.writestr("ab/" * 400 + "c", "x"), "has a name that is too long"),
        (lambda z: z.writestr("README.txt/more", "x"), "lies in another member, which is a file"),
        (lambda z: z.writestr("../outside.txt", "x"), "leaves the folder"),
        (lambda z: z.writestr("train/../../outside.txt", "x"), "leaves the folder"),
        (lambda z: z.writestr("a\\..\\..\\outside.txt", "x"), "leaves the folder"),
        (lambda z: z.writestr("/tmp/outside.txt", "x"), "absolute path"),
        (lambda z: z.writestr("C:\\outside.txt", "x"), "absolute path"),
        (link, "is a link"),
        (twice, "is a duplicate"),
        (lambda z: z.writestr("./train/_annotations.coco.json", "{}"), "is a duplicate"),
        (bomb, "more than 100 times"),
    ],
)
def test_a_hostile_zip_file_is_refused_before_anything_is_written(
    tmp_path: Path, corrupt: Callable[[zipfile.ZipFile], object], message: str
) -> None:
    archive = zip_export(write_export(tmp_path / "export"), tmp_path / "export.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("README.txt", "x")
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


def test_what_shrinks_honestly_is_unpacked(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "masks").mkdir()
    for suffix in ("png", "bmp"):
        Image.new("L", (5000, 5000)).save(export / "masks" / f"blank.{suffix}")
    (export / "masks" / "labels.txt").write_text("0 0.5 0.5 0.1 0.1\n" * 500_000)
    archive = zip_export(export, tmp_path / "export.zip")
    assert archive.stat().st_size < 200_000
    root = read_export(archive, tmp_path / "unpacked").root
    for path in (export / "masks").iterdir():
        assert (root / "masks" / path.name).read_bytes() == path.read_bytes()


def test_the_whole_archive_is_compared_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = write_export(tmp_path / "export")
    for number in range(9):
        (export / f"{number}.txt").write_bytes(bytes(10**6))
    archive = zip_export(export, tmp_path / "export.zip")
    monkeypatch.setattr("segtune.exports.archive.MAX_PACKED_TIGHTLY", 10**6)
    with pytest.raises(ExportError, match=r"export.zip: \d+ bytes unpack to \d+, more than 100"):
        read_export(archive, tmp_path / "unpacked")


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zip_export(write_export(tmp_path / "export"), tmp_path / "export.zip")
    monkeypatch.setattr("segtune.exports.archive._free_bytes", lambda folder: 1000)
    with pytest.raises(ResourceError, match=r"unpacking .*export\.zip takes") as raised:
        read_export(archive, tmp_path / "unpacked")
    assert "ownload" not in str(raised.value)
    assert not (tmp_path / "unpacked").exists()


def test_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zip_export(write_export(tmp_path / "export"), tmp_path / "export.zip")

    class Full(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *a, **k: Full() if a == ("wb",) else real(path, *a, **k)
    )
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ResourceError, match=r"No space left.* on the disk of /") as raised:
        read_export(archive, tmp_path / "unpacked")
    assert "ownload" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_sizes_of_64_bits_are_read(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in export.rglob("*.*"):
            name = path.relative_to(export).as_posix()
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(path.read_bytes())
    assert len(read_export(tmp_path / "export.zip", tmp_path / "unpacked").splits) == 3


def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "train" / "café.txt").write_text("x")
    archive = zip_export(export, tmp_path / "export.zip")
    archive.write_bytes(archive.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(ExportError, match=r"cannot read the zip file \(not UTF-8 text"):
        read_export(archive, tmp_path / "unpacked")


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


def test_the_icon_of_a_folder_on_macos_is_ignored(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "export")
    for place in (folder, folder / "train"):
        (place / "Icon\r").write_text("")
    archive = zip_export(folder, tmp_path / "export.zip", prefix="my export/")
    root = unpack(archive, tmp_path / "out")
    assert (root / "my export" / "train").is_dir()
    assert not list(root.rglob("Icon*"))
    assert is_junk(PurePosixPath("train/Icon\r"))
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("a\r/Icon\r", "")
    with pytest.raises(ExportError, match="control characters"):
        unpack(archive, tmp_path / "other")
