"""Files of an export: found in any letter case, and nothing but regular files is opened."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from segtune.core.errors import ExportError
from tests.conversion import convert, read_export, refused
from tests.exports.test_fuzzing import scene
from tests.format_writers import OPTIONS, WRITERS

LABELS = {
    "coco": "_annotations.coco.json",
    "yolo": "labels/{split}0.txt",
    "voc": "{split}0.xml",
    "createml": "_annotations.createml.json",
    "tensorflow": "_annotations.csv",
    "sam2": "{split}0.json",
    "semantic": "{split}0_mask.png",
}


def upper(path: Path) -> None:
    path.rename(path.with_suffix(path.suffix.upper()))


@pytest.mark.parametrize("kind", list(LABELS))
def test_labels_are_found_in_any_letter_case(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "export"
    WRITERS[kind](folder, scene(kind))
    options = OPTIONS.get(kind, {})
    before = convert(folder, tmp_path / "before", **options)
    for split in ("train", "valid", "test"):
        upper(folder / split / LABELS[kind].format(split=split))
    if kind == "yolo":
        (folder / "data.yaml").rename(folder / "Data.YAML")
    if kind == "semantic":
        (folder / "train" / "_classes.csv").rename(folder / "train" / "_Classes.CSV")
    after = convert(folder, tmp_path / "after", **options)
    assert all(after[split] == before[split] for split in ("train", "valid", "test"))
    assert after["train"]["annotations"]


@pytest.mark.parametrize("kind", ["yolo", "voc", "coco", "createml", "tensorflow", "sam2"])
def test_two_label_files_for_one_image_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    folder = tmp_path / "export"
    WRITERS[kind](folder, scene(kind))
    path = folder / "train" / LABELS[kind].format(split="train")
    twin = path.with_suffix(path.suffix.upper())
    if kind == "sam2":
        twin = path.with_name("other.json")
    twin.write_bytes(path.read_bytes())
    line = refused(folder, tmp_path / "out", capsys, **OPTIONS.get(kind, {}))
    assert path.name in line
    assert twin.name in line
    assert "Re" in line


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", list(LABELS))
@pytest.mark.parametrize("of_image", [False, True])
def test_a_pipe_in_a_folder_does_not_block(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, of_image: bool
) -> None:
    folder = tmp_path / "export"
    WRITERS[kind](folder, scene(kind))
    name = "pipe.jpg" if of_image else LABELS[kind].format(split="pipe")
    if kind == "yolo" and of_image:
        name = f"images/{name}"
    path = folder / "train" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if kind == "coco" and of_image:
        assert convert(folder, tmp_path / "out")["train"]["images"]  # the table does not list it
        return
    line = refused(folder, tmp_path / "out", capsys, **OPTIONS.get(kind, {}))
    assert f"{path.name}: cannot be read: it is a pipe" in line


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to("gone.jpg"), "a link to a file that does not exist"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (lambda path: path.write_bytes(b""), "the image file is empty"),
    ],
)
def test_an_image_that_is_not_a_file_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], object],
    message: str,
) -> None:
    WRITERS["voc"](tmp_path / "export", scene("voc"))
    path = tmp_path / "export" / "valid" / "valid0.jpg"
    path.unlink()
    make(path)
    line = refused(tmp_path / "export", tmp_path / "out", capsys)
    assert message in line or "cannot read the image" in line
    assert "valid0.jpg" in line


def test_folders_in_folders_end(tmp_path: Path) -> None:
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "again").symlink_to(".")
    with pytest.raises(ExportError, match="contains no train/"):
        read_export(tmp_path / "loop", tmp_path / "unpacked")


@pytest.mark.timeout(30)
def test_an_export_that_is_a_pipe_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "export.zip")
    assert "export.zip: it is a pipe" in refused(tmp_path / "export.zip", tmp_path / "out", capsys)
