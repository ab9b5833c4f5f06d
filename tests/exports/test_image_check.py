"""Image files of an export: damaged or rotated ones are refused."""

import io
import time
from pathlib import Path

import pytest
from PIL import Image

from segtune.dataset.images import require_few_scans
from tests.conversion import refused
from tests.export_writer import HEIGHT, WIDTH, write_export
from tests.exports.test_fuzzing import scene
from tests.format_writers import OPTIONS, WRITERS


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


def progressive(scans: int) -> bytes:
    """A JPEG whose last scan is repeated."""
    file = io.BytesIO()
    Image.radial_gradient("L").resize((WIDTH, HEIGHT)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * scans + content[-2:]


@pytest.mark.parametrize("kind", ["coco", "semantic"])
def test_a_jpeg_of_hundreds_of_scans_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    WRITERS[kind](tmp_path / "export", scene(kind))
    name = "train0.jpg" if kind == "coco" else "train0_mask.png"
    (tmp_path / "export" / "train" / name).write_bytes(progressive(400))
    line = refused(tmp_path / "export", tmp_path / "out", capsys, **OPTIONS.get(kind, {}))
    assert f"{name}: cannot read the image (a JPEG of more than 100 scans)" in line


def test_markers_of_scans_are_not_looked_for_in_other_data() -> None:
    content = progressive(20)
    comment = b"\xff\xfe\x03\xea" + b"\xff\xda" * 500
    require_few_scans(content[:2] + comment + content[2:] + b"\xff\xda" * 500)
    began = time.monotonic()
    require_few_scans(b"\xff\xd8" + b"\xff\xfe\x00\x02" * 500_000)
    require_few_scans(b"\xff\xd8" + b"\xff" * 10_000_000)
    assert time.monotonic() - began < 5


def test_an_image_rotated_by_exif_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = write_export(tmp_path / "export")
    path = sorted((export / "train").glob("*.jpg"))[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, exif=exif)
    assert "EXIF orientation (6)" in refused(export, tmp_path / "out", capsys)
