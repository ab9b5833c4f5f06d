"""Image files: names, damaged files, and the EXIF orientation."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from segtune.core.errors import DatasetError, ExportError
from segtune.dataset.images import (
    EXIF_ORIENTATION,
    is_image_name,
    opened_image,
    upright_rgb,
    upright_size,
)

NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("b/A.JPEG", True),
        ("c.tif", True),
        ("d.webp", True),
        ("._a.jpg", False),
        ("jpg", False),
        ("a.txt", False),
        ("a.jpg.json", False),
    ],
)
def test_images_are_known_by_their_suffix(name: str, expected: bool) -> None:
    assert is_image_name(Path(name)) is expected


def save(path: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(NOISE).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_rotated_by_its_exif_orientation(tmp_path: Path, orientation: int) -> None:
    path = save(tmp_path / "a.png", orientation)
    upright = upright_rgb(path)
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(upright), np.asarray(ImageOps.exif_transpose(image)))
        assert upright_size(image) == upright.size == ((60, 40) if orientation < 5 else (40, 60))


def test_gray_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1"):
        Image.new(mode, (6, 4)).save(tmp_path / f"{mode}.png")
        assert upright_rgb(tmp_path / f"{mode}.png").mode == "RGB"


def test_a_large_jpeg_may_be_decoded_smaller(tmp_path: Path) -> None:
    Image.new("RGB", (1600, 800), (200, 30, 30)).save(tmp_path / "a.jpg")
    width, height = upright_rgb(tmp_path / "a.jpg", draft_side=100).size
    assert 100 <= height < width < 1600
    assert upright_rgb(tmp_path / "a.jpg").size == (1600, 800)


def truncated() -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "JPEG")
    return file.getvalue()[:-500]


@pytest.mark.parametrize(
    "content", [None, b"", b"text", truncated()], ids=["missing", "empty", "text", "truncated"]
)
def test_an_unreadable_image_is_one_clear_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.jpg: cannot read the image"):
        upright_rgb(path)


def test_the_kind_and_the_fix_of_the_error_are_the_callers(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match=r"cannot read the image .*Export again"),
        opened_image(tmp_path / "a.jpg", ExportError, "Export again"),
    ):
        pass


def test_a_huge_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(DatasetError, match=r"a\.png: cannot read the image"):
        upright_rgb(tmp_path / "a.png")
