"""Copies across splits: changed ones are found, different images are not taken for copies."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as PilImage
from PIL import ImageDraw

from benchmarks.copies import augmented, changes
from benchmarks.validation_scan import scene
from segtune.checks.copies import copy_findings
from segtune.core.validate_settings import ValidateLimits
from segtune.dataset.findings import Found, Place
from segtune.dataset.image_copies import compared_splits
from segtune.dataset.image_scan import THUMBNAIL_SIDE, ImageScan
from tests.dataset.image_files import Contents, encoded, scan_splits, write_split
from tests.documentation import ROOT

SIDE = 160  # pixels
LIMITS = ValidateLimits()
CHANGES = {title: (change, quality) for title, change, quality in changes()}
SCENES = [scene(seed, SIDE) for seed in range(20)]


def jpeg(image: PilImage.Image, quality: int = 90) -> bytes:
    return encoded(image, "JPEG", quality=quality)


def named(
    scans: Sequence[ImageScan], limits: ValidateLimits = LIMITS, root: Path = Path()
) -> Iterator[Found]:
    return copy_findings(compared_splits(scans, limits.likely_copy_similarity), root, limits)


def found(
    folder: Path, limits: ValidateLimits = LIMITS, **splits: Contents
) -> list[tuple[str, Place]]:
    written = [write_split(folder, contents, name) for name, contents in splits.items()]
    return list(named(scan_splits(*written), limits, folder))


def pairs(findings: Sequence[tuple[str, Place]]) -> list[tuple[str, str, str]]:
    return [(rule, place.image, place.other_image) for rule, place in findings]


@pytest.mark.parametrize("title", CHANGES)
def test_changed_copies_are_found(tmp_path: Path, title: str) -> None:
    change, quality = CHANGES[title]
    originals = {f"{n}.jpg": jpeg(image) for n, image in enumerate(SCENES)}
    copies = {f"copy{n}.jpg": jpeg(change(image), quality) for n, image in enumerate(SCENES)}
    expected = {("copy-near", f"copy{n}.jpg", f"{n}.jpg") for n in range(len(SCENES))}
    got = pairs(found(tmp_path, train=originals, test=copies))
    assert len(expected & set(got)) >= 0.95 * len(expected)
    assert set(got) - expected <= {("copy-likely", name, other) for _, name, other in expected}


def test_different_images_are_not_taken_for_copies(tmp_path: Path) -> None:
    images = {f"{n}.jpg": jpeg(scene(1000 + n, 64)) for n in range(400)}
    names = list(images)
    train, valid = ({name: images[name] for name in part} for part in (names[:250], names[250:]))
    assert not found(tmp_path, train=train, valid=valid)


def test_identical_bytes_are_named_once_for_each_earlier_split(tmp_path: Path) -> None:
    content = jpeg(SCENES[0])
    findings = found(
        tmp_path,
        train={"a.jpg": content, "b.jpg": content},
        valid={"c.jpg": content},
        test={"d.jpg": content},
    )
    assert pairs(findings) == [
        ("copy-identical", "c.jpg", "a.jpg"),
        ("copy-identical", "d.jpg", "a.jpg"),
        ("copy-identical", "d.jpg", "c.jpg"),
        ("copy-within", "b.jpg", "a.jpg"),
    ]
    assert findings[0][1].text == "valid: c.jpg = train: a.jpg (identical bytes)"
    assert (findings[0][1].split, findings[0][1].other_split) == ("valid", "train")


def test_a_split_that_stands_in_for_another_is_not_a_copy(tmp_path: Path) -> None:
    valid = {"v.jpg": jpeg(SCENES[1]), "w.jpg": jpeg(SCENES[1], 50)}
    findings = found(tmp_path, train={"a.jpg": jpeg(SCENES[1], 70)}, valid=valid, test=valid)
    assert {(place.split, place.image) for _, place in findings} == {
        ("valid", "v.jpg"),
        ("valid", "w.jpg"),
    }


def test_a_file_of_train_in_another_split_is_a_copy(tmp_path: Path) -> None:
    train = {"a.jpg": jpeg(SCENES[0])}
    assert pairs(found(tmp_path, train=train, test=train)) == [("copy-identical", "a.jpg", "a.jpg")]


def test_the_evidence_names_the_change_and_the_best_original(tmp_path: Path) -> None:
    mirrored = SCENES[2].transpose(PilImage.Transpose.FLIP_LEFT_RIGHT)
    train = {"frame.jpg": jpeg(moved(SCENES[2], 40)), "true.jpg": jpeg(SCENES[2])}
    ((rule, place),) = [
        (rule, place)
        for rule, place in found(tmp_path, train=train, valid={"copy.jpg": jpeg(mirrored)})
        if place.split == "valid"
    ]
    assert rule == "copy-near"
    assert place.text == "valid: copy.jpg = train: true.jpg (mirrored, correlation 1.00)"


def moved(image: PilImage.Image, place: int) -> PilImage.Image:
    """The image with something at a place, as in a frame of a fixed camera."""
    frame = image.copy()
    ImageDraw.Draw(frame).ellipse((place, 60, place + 12, 72), fill="white", outline="black")
    return frame


def test_frames_of_one_scene_are_only_likely_copies(tmp_path: Path) -> None:
    for number, image in enumerate(SCENES[:5]):
        folder = tmp_path / str(number)
        frames = {"a.jpg": jpeg(moved(image, 20))}, {"b.jpg": jpeg(moved(image, 100))}
        limits = ValidateLimits(likely_copy_similarity=0.7)
        got = pairs(found(folder, limits, train=frames[0], valid=frames[1]))
        assert got == [("copy-likely", "b.jpg", "a.jpg")]


def test_a_name_is_only_a_hint(tmp_path: Path) -> None:
    train = {"a_jpg.rf.0123.jpg": jpeg(SCENES[3]), "b_jpg.rf.0123.jpg": jpeg(SCENES[4])}
    train["a_jpg.rf.later.jpg"] = jpeg(SCENES[11])
    valid = {"a_jpg.rf.4567.jpg": jpeg(SCENES[5]), "b_jpg.rf.4567.jpg": jpeg(SCENES[4], 60)}
    findings = found(tmp_path, train=train, valid=valid)
    assert sorted(pairs(findings)) == [
        ("copy-near", "b_jpg.rf.4567.jpg", "b_jpg.rf.0123.jpg"),
        ("copy-same-source", "a_jpg.rf.4567.jpg", "a_jpg.rf.0123.jpg"),
    ]


def test_copies_within_a_split_are_named_for_the_later_image(tmp_path: Path) -> None:
    train = {"a.jpg": jpeg(SCENES[6]), "b.jpg": jpeg(SCENES[7]), "c.jpg": jpeg(SCENES[6], 40)}
    assert pairs(found(tmp_path, train=train)) == [("copy-within", "c.jpg", "a.jpg")]


def test_plain_images_are_compared_only_by_their_bytes(tmp_path: Path) -> None:
    plain = PilImage.new("RGB", (64, 64), "gray")
    findings = found(
        tmp_path,
        train={"plain.png": encoded(plain, "PNG")},
        valid={"plain.bmp": encoded(plain, "BMP"), "same.png": encoded(plain, "PNG")},
    )
    assert pairs(findings) == [
        ("copy-unchecked", "plain.png", ""),
        ("copy-unchecked", "plain.bmp", ""),
        ("copy-unchecked", "same.png", ""),
        ("copy-identical", "same.png", "plain.png"),
    ]


def test_broken_images_are_passed_over(tmp_path: Path) -> None:
    train = {"a.jpg": b"", "b.jpg": None, "c.jpg": jpeg(SCENES[8])}
    assert not found(tmp_path, train=train, valid={"d.jpg": b"", "e.jpg": None})[1:]
    assert not list(named([]))


def scans_of(split: str, thumbnails: npt.NDArray[np.uint8]) -> list[ImageScan]:
    return [
        ImageScan(split, f"{split}{n}", "", f"{split}{n}", pixels.tobytes(), ())
        for n, pixels in enumerate(thumbnails)
    ]


def test_more_similar_images_than_are_compared_are_reported() -> None:
    rng = np.random.default_rng(0)
    scenery = np.linspace(60, 190, THUMBNAIL_SIDE)
    noise = rng.integers(-60, 60, (1200, THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    images = (scenery + noise).astype(np.uint8)
    # A copy among them is the nearest one all the same.
    copies = (images[:20] * 0.8).astype(np.uint8)
    began = time.monotonic()
    scans = [*scans_of("train", images[:800]), *scans_of("valid", images[800:])]
    findings = list(named([*scans, *scans_of("test", copies)]))
    assert time.monotonic() - began < 30
    near = {(place.image, place.other_image) for rule, place in findings if rule == "copy-near"}
    assert near == {(f"test{n}", f"train{n}") for n in range(20)}
    unchecked = [place for rule, place in findings if rule == "copy-unchecked"]
    assert len(unchecked) > 380
    assert "more than 16 similar images in train" in unchecked[0].text
    in_train = {place.image for place in unchecked if "images in train" in place.text}
    assert not in_train & {image for image, _ in near}


def test_a_thousand_copies_of_one_image_take_seconds() -> None:
    thumbnail = np.asarray(SCENES[9].convert("L").resize((32, 32)))
    scans = scans_of("train", np.broadcast_to(thumbnail, (1000, 32, 32)))
    scans += scans_of("valid", thumbnail[None])
    began = time.monotonic()
    rules = Counter(rule for rule, _ in named(scans))
    assert time.monotonic() - began < 30
    assert rules["copy-near"] == 1


def test_the_thresholds_are_settings(tmp_path: Path) -> None:
    one = np.asarray(SCENES[10].convert("L").resize((32, 32)))
    noise = np.random.default_rng(0).uniform(-0.7, 0.7, one.shape) * one.std()
    other = (one + noise).clip(0, 255).astype(np.uint8)
    scans = [*scans_of("train", one[None]), *scans_of("valid", other[None])]
    for scan, pixels in zip(scans, (one, other), strict=True):
        PilImage.fromarray(pixels).save(tmp_path / scan.file_name, "PNG")
    for limits, expected in (
        ({"likely_copy_similarity": 0.7}, [("copy-likely", False)]),
        ({"likely_copy_similarity": 0.7, "copy_similarity": 0.7}, [("copy-near", False)]),
        ({}, [("copy-likely", True)]),
    ):
        findings = named(scans, ValidateLimits(**limits), tmp_path)
        got = [(rule, "of the places agree" in place.text) for rule, place in findings]
        assert got == expected


def test_an_augmented_copy_is_likely_by_the_places_that_agree(tmp_path: Path) -> None:
    train = {f"{n}.jpg": jpeg(image) for n, image in enumerate(SCENES)}
    test = {f"copy{n}.jpg": jpeg(augmented(image)) for n, image in enumerate(SCENES)}
    findings = found(tmp_path, train=train, test=test)
    assert {rule for rule, _ in findings} == {"copy-likely"}
    assert all(place.image == f"copy{place.other_image}" for _, place in findings)
    assert len(findings) >= 5
    for _, place in findings:
        similarity = float(place.text.split("correlation ")[1][:4])
        assert ("of the places agree" in place.text) == (similarity < 0.9)
        assert "(mirrored, " in place.text


def test_drawings_with_one_layout_are_not_copies(tmp_path: Path) -> None:
    names = ("train_123", "train_186"), ("valid_036", "train_156"), ("test_050", "train_092")
    for number, pair in enumerate(names):
        one, other = (next((ROOT / "data/demo").rglob(f"{name}_*.jpg")) for name in pair)
        seen = {"train": {"a.jpg": one.read_bytes()}, "valid": {"b.jpg": other.read_bytes()}}
        low = ValidateLimits(likely_copy_similarity=0.8)
        folder = tmp_path / str(number)
        assert pairs(found(folder, low, **seen)) == [("copy-likely", "b.jpg", "a.jpg")]
        assert not found(folder, **seen)
