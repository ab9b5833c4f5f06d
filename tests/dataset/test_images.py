"""Image files: names, damaged files, and the EXIF orientation."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import EpsImagePlugin, Image, ImageOps

from segtune.core.errors import DatasetError, ExportError
from segtune.dataset.images import (
    EXIF_ORIENTATION,
    opened_image,
    upright_rgb,
    upright_size,
)
from segtune.dataset.masks import MAX_PIXELS

NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


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


def test_a_file_that_would_start_another_program_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a))
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(path, "EPS")
    with pytest.raises(DatasetError, match=r"a\.png: .*it is not JPEG, PNG, BMP, WEBP or TIFF"):
        upright_rgb(path)
    assert not started


@pytest.mark.parametrize("kind", ["GIF", "PPM", "TGA", "ICO", "PDF", "DDS", "SGI", "PCX"])
def test_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg", kind)
    with pytest.raises(DatasetError, match="cannot read the image"):
        upright_rgb(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "MPO"])
def test_formats_of_datasets_are_read_whatever_their_suffix(tmp_path: Path, kind: str) -> None:
    Image.fromarray(NOISE).save(tmp_path / "a.bmp", kind)
    assert upright_rgb(tmp_path / "a.bmp").size == (60, 40)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_become_the_upper_eight(tmp_path: Path, suffix: str, order: str) -> None:
    gray = np.linspace(0, 65535, 2400).round().astype(order).reshape(40, 60)
    Image.fromarray(gray).save(tmp_path / f"a.{suffix}")
    pixels = np.asarray(upright_rgb(tmp_path / f"a.{suffix}"))
    assert pixels.shape == (40, 60, 3)
    assert np.array_equal(pixels[..., 0], (gray // 256).astype(np.uint8))


def test_black_of_sixteen_bits_stays_black(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(tmp_path / "a.png")
    assert not np.asarray(upright_rgb(tmp_path / "a.png")).any()


def deep_png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits for each of 3 channels or, with opacity, 4; Pillow cannot write one."""
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.parametrize("channels", [3, 4])
def test_color_of_twelve_bits_is_refused_and_of_sixteen_is_not(
    tmp_path: Path, channels: int
) -> None:
    pixels = np.full((4, 5, channels), 4095, np.uint16)
    pixels[..., 3:] = 65535  # opacity
    (tmp_path / "a.png").write_bytes(deep_png(pixels))
    with pytest.raises(DatasetError, match="16-bit pixels of at most 4095 of 65535"):
        upright_rgb(tmp_path / "a.png")
    pixels[0, 0, 0] = 4096
    (tmp_path / "a.png").write_bytes(deep_png(pixels))
    assert np.asarray(upright_rgb(tmp_path / "a.png")).max() == 16


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "JPEG"])
def test_a_dark_image_of_eight_bits_is_read(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "a", kind)
    assert np.asarray(upright_rgb(tmp_path / "a")).max() == 9


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            np.full((4, 5), 4095, np.uint16),
            "16-bit pixels of at most 4095 of 65535, which is almost black",
        ),
        (np.full((4, 5), 70_000, np.int32), "32-bit integer pixels"),
        (np.full((4, 5), 0.5, np.float32), "32-bit float pixels"),
    ],
)
def test_other_depths_are_refused(
    tmp_path: Path, pixels: npt.NDArray[np.generic], message: str
) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(DatasetError, match=rf"a\.tif: cannot read the image \({message}"):
        upright_rgb(tmp_path / "a.tif")


@pytest.mark.timeout(20)
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="it is a pipe"):
        upright_rgb(tmp_path / "a.png")


def test_an_image_beyond_the_limit_is_refused_where_pillow_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    with pytest.raises(DatasetError, match=r"Image size \(2000 pixels\) exceeds limit"):
        upright_rgb(tmp_path / "a.png")
    assert MAX_PIXELS == 89_478_485
