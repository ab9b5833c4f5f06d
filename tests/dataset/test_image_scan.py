"""The scan of images: each defect has its rule, and an image without one has none."""

import hashlib
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from segtune.dataset.coco import Manifest
from segtune.dataset.image_scan import THUMBNAIL_SIDE, ImageScan, scan_images
from tests.dataset.image_files import (
    HEIGHT,
    WIDTH,
    Contents,
    encoded,
    manifest_of,
    scan_splits,
    unnoticed,
    write_split,
)


def colors(mode: str = "RGB") -> PilImage.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return PilImage.fromarray(pixels).convert(mode)


def scan(folder: Path, contents: Contents, original: str = "") -> list[ImageScan]:
    split = write_split(folder, contents, original=original)
    return scan_splits(split, manifest=manifest_of(folder, contents))


def rules(scans: list[ImageScan]) -> list[str]:
    return [rule for found in scans for rule, _ in found.findings()]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jpg", encoded(colors(), "JPEG")),
        ("a.jpeg", encoded(colors(), "JPEG", progressive=True)),
        ("a.JPG", encoded(colors("L"), "JPEG")),
        ("a.png", encoded(colors(), "PNG")),
        ("a.bmp", encoded(colors(), "BMP")),
        ("a.webp", encoded(colors(), "WEBP")),
        ("a.tif", encoded(colors(), "TIFF")),
        ("opaque.png", encoded(colors("RGBA"), "PNG")),
    ],
)
def test_a_good_image_breaks_no_rule(tmp_path: Path, name: str, content: bytes) -> None:
    (found,) = scan(tmp_path, {name: content})
    assert not found.problems
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    gray = np.asarray(colors("L").resize((32, 32), PilImage.Resampling.BILINEAR), float)
    assert found.thumbnail
    thumbnail = np.frombuffer(found.thumbnail, np.uint8).reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    assert np.abs(thumbnail - gray).mean() < 4


def transparent() -> PilImage.Image:
    image = colors("RGBA")
    image.putpixel((3, 4), (255, 0, 0, 128))
    return image


def palette_with_a_hole() -> bytes:
    return encoded(colors().quantize(16), "PNG", transparency=3)


def rotated() -> bytes:
    exif = PilImage.Exif()
    exif[0x0112] = 6
    return encoded(PilImage.new("RGB", (HEIGHT, WIDTH)), "JPEG", exif=exif)


def sixteen_bits(brightest: int) -> bytes:
    values = np.linspace(0, brightest, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    return encoded(PilImage.fromarray(values.astype(np.uint16)), "PNG")


def float_pixels() -> bytes:
    return encoded(PilImage.fromarray(np.ones((HEIGHT, WIDTH), np.float32)), "TIFF")


def frames(kind: str) -> bytes:
    more = PilImage.new("RGB", (WIDTH, HEIGHT), "red")
    return encoded(colors(), kind, save_all=True, append_images=[more])


GOOD = encoded(colors(), "JPEG")


@pytest.mark.parametrize(
    ("rule", "name", "content"),
    [
        ("image-missing", "a.jpg", None),
        ("image-format", "a.jpg", b""),
        ("image-format", "a.jpg", encoded(colors("P"), "GIF")),
        ("image-format", "a.png", b"version https://git-lfs.github.com/spec/v1\n"),
        ("image-format", "a.jpg", b"<html>not found</html>"),
        ("image-damaged", "a.jpg", GOOD[:-100]),
        ("image-damaged", "a.jpg", GOOD[:200]),
        ("image-damaged", "a.png", encoded(colors(), "PNG")[:-100]),
        ("image-size", "a.jpg", encoded(PilImage.new("RGB", (WIDTH, HEIGHT + 1)), "JPEG")),
        ("image-rotated", "a.jpg", rotated()),
        ("image-depth", "a.tif", float_pixels()),
        ("image-animated", "a.png", frames("PNG")),
        ("image-animated", "a.webp", frames("WEBP")),
        ("image-animated", "a.tif", frames("TIFF")),
        ("image-cmyk", "a.jpg", encoded(colors("CMYK"), "JPEG")),
        ("image-transparent", "a.png", encoded(transparent(), "PNG")),
        ("image-16-bit", "a.png", sixteen_bits(65535)),
        ("image-palette", "a.png", encoded(colors().quantize(16), "PNG")),
        ("image-suffix", "a.png", GOOD),
    ],
)
def test_each_defect_breaks_its_own_rule(
    tmp_path: Path, rule: str, name: str, content: bytes | None
) -> None:
    scans = scan(tmp_path, {name: content})
    assert rules(scans) == [rule]
    ((_, place),) = scans[0].findings()
    assert (place.split, place.image) == ("train", name)
    assert place.text.startswith(f"train: {name}")


def test_several_defects_are_all_found(tmp_path: Path) -> None:
    assert rules(scan(tmp_path, {"a.png": palette_with_a_hole()})) == [
        "image-palette",
        "image-transparent",
    ]
    assert rules(scan(tmp_path, {"a.png": sixteen_bits(1000)})) == ["image-16-bit", "image-depth"]


def test_a_jpeg_with_a_preview_behind_it_is_one_image(tmp_path: Path) -> None:
    phone = encoded(colors(), "MPO", save_all=True, append_images=[colors().resize((48, 32))])
    assert not rules(scan(tmp_path, {"a.jpg": phone}))


def test_images_are_compared_with_the_manifest(tmp_path: Path) -> None:
    content = encoded(colors(), "BMP")
    known = {"same.bmp": content, "longer.bmp": content, "other.bmp": content}
    now = {
        **known,
        "longer.bmp": content + b"more",
        "other.bmp": content[:-1] + bytes([content[-1] ^ 1]),
        "unlisted.bmp": content,
    }
    scans = scan_splits(write_split(tmp_path, now), manifest=manifest_of(tmp_path, known))
    assert {found.file_name: rules([found]) for found in scans} == {
        "same.bmp": [],
        "longer.bmp": ["image-changed"],
        "other.bmp": ["image-changed"],
        "unlisted.bmp": ["image-unlisted"],
    }


def test_images_come_in_their_order_and_each_advances_the_progress(tmp_path: Path) -> None:
    split = write_split(tmp_path, {f"{number}.jpg": GOOD for number in range(40)})
    advanced: list[int] = []
    scans = scan_images(
        [split, replace(split, name="valid")],
        Manifest(tmp_path, ()),
        workers=3,
        advance=lambda done=1, note="": advanced.append(done),
    )
    names = [f"{number}.jpg" for number in range(40)]
    assert [(found.split, found.file_name) for found in scans] == [
        *(("train", name) for name in names),
        *(("valid", name) for name in names),
    ]
    assert advanced == [1] * 80


def test_images_are_not_read_long_before_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []

    def read(path: Path, *_: object, **__: object) -> bytes:
        started.append(path)
        return GOOD

    monkeypatch.setattr("segtune.dataset.image_scan.read_bytes", read)
    split = write_split(tmp_path, dict.fromkeys((f"{number}.jpg" for number in range(100)), None))
    scans = scan_images([split], Manifest(tmp_path, ()), workers=2, advance=unnoticed)
    next(scans)
    scans.close()
    assert 0 < len(started) < 50


def test_of_an_image_a_kilobyte_remains(tmp_path: Path) -> None:
    large = PilImage.radial_gradient("L").resize((1000, 1000))
    split = write_split(tmp_path, dict.fromkeys("abcdefghij", encoded(large, "JPEG")))
    tracemalloc.start()
    scans = scan_splits(split)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(found.thumbnail for found in scans)
    assert held < 4000 * len(scans)


@pytest.mark.parametrize(
    ("name", "original", "expected"),
    [
        ("road_1_jpg.rf.0123456789abcdef0123456789abcdef.jpg", "", "road_1_jpg.jpg"),
        ("train/images/a.rf.Zx81.jpg", "", "a.jpg"),
        ("b.rf.Zx81.jpg", "holiday.jpg", "holiday.jpg"),
        ("1.jpg", "", ""),
    ],
)
def test_the_original_is_known_by_its_record_or_roboflows_suffix(
    tmp_path: Path, name: str, original: str, expected: str
) -> None:
    (found,) = scan(tmp_path, {name: GOOD}, original)
    assert found.original == expected
