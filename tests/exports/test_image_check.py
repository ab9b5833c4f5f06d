"""Image files of an export: damaged or rotated ones are refused."""

from pathlib import Path

import pytest
from PIL import Image

from tests.conversion import refused
from tests.export_writer import HEIGHT, WIDTH, write_export


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the image file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"not an image at all", "cannot read the image"),
        (None, "cannot read the image"),
    ],
)
def test_a_damaged_image_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    export = write_export(tmp_path / "export")
    path = sorted((export / "valid").glob("*.jpg"))[0]
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    line = refused(export, tmp_path / "out", capsys)
    assert message in line
    assert path.name in line


def test_an_image_rotated_by_exif_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = write_export(tmp_path / "export")
    path = sorted((export / "train").glob("*.jpg"))[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)
    assert "EXIF orientation (6)" in refused(export, tmp_path / "out", capsys)
