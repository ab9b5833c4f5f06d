"""Copies across splits are moved to one of them with their objects, or left where they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks.validation_scan import scene
from segtune.dataset.image_copies import ComparedSplit, compared_splits
from segtune.dataset.image_scan import THUMBNAIL_SIDE, ImageScan
from segtune.exports.moved_copies import find_moves
from tests.conversion import convert, refused, rules
from tests.format_writers import DrawnImage, Thing, write_coco
from tests.validate_runs import found_in

SIDE = 64  # pixels
CROSS_SPLIT = {"copy-identical", "copy-near"}

# What is saved as each image: the number of a scene, and what is done to it.
Planted = dict[str, dict[str, tuple[int, str]]]
COPIES: Planted = {
    "train": {"a": (0, ""), "b": (1, ""), "c": (2, "")},
    "valid": {"d": (3, ""), "e": (0, "mirror"), "f": (4, ""), "g": (5, "")},
    "test": {"h": (4, "recompress"), "i": (6, ""), "j": (1, ""), "k": (0, "recompress")},
}


def changed_scene(number: int, change: str) -> Image.Image:
    image = scene(number, SIDE)
    return ImageOps.mirror(image) if change == "mirror" else image


def write_export(folder: Path, planted: Planted) -> Path:
    """An export of these images, each with one object, whose class and width differ."""
    stems = sorted(stem for images in planted.values() for stem in images)
    write_coco(
        folder,
        {
            split: [
                DrawnImage(stem, SIDE, SIDE, (object_of(stems.index(stem)),)) for stem in images
            ]
            for split, images in planted.items()
        },
    )
    for split, images in planted.items():
        for stem, (number, change) in images.items():
            quality = 60 if change == "recompress" else 95
            changed_scene(number, change).save(folder / split / f"{stem}.jpg", quality=quality)
    return folder


def object_of(place: int) -> Thing:
    return Thing(place % 3, (1.0, 2.0, 10.0 + place, 8.0))


def labels(values: dict[str, Any], split: str) -> dict[str, tuple[str, float]]:
    """Image -> the class and the width of its only object."""
    names = {category["id"]: category["name"] for category in values[split]["categories"]}
    images = {image["id"]: Path(image["file_name"]).stem for image in values[split]["images"]}
    found = [(images[a["image_id"]], a) for a in values[split]["annotations"]]
    assert len({stem for stem, _ in found}) == len(found)
    return {stem: (names[a["category_id"]], a["bbox"][2]) for stem, a in found}


def stems(values: dict[str, Any], split: str) -> list[str]:
    return [Path(image["file_name"]).stem for image in values[split]["images"]]


def moved(values: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """Image -> where it was, where it is, and what it is a copy of."""
    return {
        Path(move["file_name"]).stem: (
            move["from_split"],
            move["to_split"],
            Path(move["copy_of"]).stem,
        )
        for move in values["conversion"]["moved_images"]
    }


def test_copies_move_to_train_or_else_to_valid_with_their_objects(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", COPIES)
    before = {path: path.read_bytes() for path in export.rglob("*.*")}
    kept = convert(export, tmp_path / "kept")
    values = convert(export, tmp_path / "moved", copies="move_to_train")
    assert {split: stems(values, split) for split in COPIES} == {
        "train": ["a", "b", "c", "e", "j", "k"],
        "valid": ["d", "f", "g", "h"],
        "test": ["i"],
    }
    for split in COPIES:
        for table in ("images", "annotations"):
            ids = [record["id"] for record in values[split][table]]
            assert sorted(ids) == list(range(1, len(ids) + 1))
    together = [
        {stem: label for split in COPIES for stem, label in labels(one, split).items()}
        for one in (kept, values)
    ]
    assert together[0] == together[1]
    assert values["manifest"] == kept["manifest"]
    assert {path: path.read_bytes() for path in export.rglob("*.*")} == before


def test_what_was_moved_is_logged_with_its_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = write_export(tmp_path / "export", COPIES)
    values = convert(export, tmp_path / "out", copies="move_to_train")
    assert moved(values) == {
        "e": ("valid", "train", "a"),
        "j": ("test", "train", "b"),
        "k": ("test", "train", "a"),
        "h": ("test", "valid", "f"),
    }
    evidence = {
        Path(move["file_name"]).stem: move["evidence"]
        for move in values["conversion"]["moved_images"]
    }
    assert evidence["j"] == "identical bytes"
    assert evidence["e"].startswith("mirrored, correlation 0.9") or "1.00" in evidence["e"]
    assert {rule: n for rule, n in rules(values).items() if "copy" in rule} == {
        "copy of an image moved from valid to train": 1,
        "copy of an image moved from test to train": 2,
        "copy of an image moved from test to valid": 1,
    }
    assert "repaired (2 x): copy of an image moved from test to train" in capsys.readouterr().out
    counts = values["conversion"]["splits"]
    assert {split: counts[split]["images"] for split in counts} == {
        "train": 6,
        "valid": 4,
        "test": 1,
    }
    assert [counts[split]["annotations"] for split in counts] == [6, 4, 1]


def test_validation_finds_no_copy_across_splits_afterwards(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", COPIES)
    for copies, expected in (("keep", CROSS_SPLIT), ("move_to_train", set())):
        coco = tmp_path / copies / "coco"
        convert(export, coco, copies=copies)
        assert set(found_in(coco)) & CROSS_SPLIT == expected


def test_copies_are_kept_unless_they_are_to_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segtune.exports.moved_copies.scan_images", None)  # it is not called
    values = convert(write_export(tmp_path / "export", COPIES), tmp_path / "out")
    assert {split: stems(values, split) for split in COPIES} == {
        split: list(images) for split, images in COPIES.items()
    }
    assert values["conversion"]["moved_images"] == []


def test_a_dataset_without_copies_stays_as_it_is(tmp_path: Path) -> None:
    planted = {
        split: {f"{split}{n}": (10 * i + n, "") for n in range(3)} for i, split in enumerate(COPIES)
    }
    export = write_export(tmp_path / "export", planted)
    kept = convert(export, tmp_path / "kept")
    assert convert(export, tmp_path / "moved", copies="move_to_train") == kept


def test_valid_may_stand_in_for_test(tmp_path: Path) -> None:
    planted = {split: COPIES[split] for split in ("train", "valid")}
    export = write_export(tmp_path / "export", planted)
    values = convert(export, tmp_path / "out", copies="move_to_train", missing_test="valid")
    assert stems(values, "train") == ["a", "b", "c", "e"]
    assert stems(values, "valid") == ["d", "f", "g"]
    assert values["test"] == values["valid"]
    assert moved(values) == {"e": ("valid", "train", "a")}


def test_a_held_out_split_has_no_copies_of_train_either(tmp_path: Path) -> None:
    # Each scene twice, under names that do not give it away.
    images = {f"{n:02}": (n // 2, "mirror" if n % 2 else "") for n in range(20)}
    planted: Planted = {"train": images, "valid": {"v": (30, "")}}
    export = write_export(tmp_path / "export", planted)
    chosen = {"missing_test": "hold_out", "holdout_fraction": 0.4, "copies": "move_to_train"}
    values = convert(export, tmp_path / "coco", **chosen)
    scenes = {
        split: {int(stem) // 2 for stem in stems(values, split)} for split in ("train", "test")
    }
    assert values["test"]["images"]
    assert moved(values)
    assert not scenes["train"] & scenes["test"]
    assert not set(found_in(tmp_path / "coco")) & CROSS_SPLIT


def test_a_split_of_copies_only_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = {**COPIES, "test": {"j": (1, ""), "h": (4, "recompress")}}
    export = write_export(tmp_path / "export", planted)
    line = refused(export, tmp_path / "out", capsys, copies="move_to_train")
    assert "DatasetError" in line
    assert "every image of test is a copy of one of another split" in line
    assert "{copies: keep}" in line


def scans(**splits: dict[str, str]) -> list[ImageScan]:
    """Scans of these contents, with the thumbnails of those that have one."""
    return [
        ImageScan(split, name, "", content, THUMBNAILS.get(content), ())
        for split, images in splits.items()
        for name, content in images.items()
    ]


def thumbnails() -> dict[str, bytes]:
    """Each next step has one more part of a noise: only neighbors are near enough."""
    gray = np.asarray(scene(10, 160).convert("L").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE)), float)
    noise = np.random.default_rng(0).uniform(-0.35, 0.35, gray.shape) * gray.std()
    steps = {f"step {n}": 50 + 0.6 * (gray + (n - 1) * noise) for n in range(6)}
    # More similar than a neighbor, but with something in it that is not in the others.
    steps["object"] = steps["step 1"].copy()
    steps["object"][9, 9] += 1.2 * steps["object"].std()
    return {name: pixels.clip(0, 255).astype(np.uint8).tobytes() for name, pixels in steps.items()}


THUMBNAILS = thumbnails()


def moves(found: list[ImageScan]) -> set[tuple[str, str, str]]:
    return {(m.file_name, m.from_split, m.to_split) for m in find_moves(found).values()}


def test_the_same_file_in_two_splits_stays_in_the_first() -> None:
    found = scans(train={"a": "x", "b": "y"}, valid={"v": "z"}, test={"a": "x", "t": "u"})
    assert moves(found) == {("a", "test", "train")}


def test_all_images_of_a_group_move() -> None:
    found = scans(train={"a": "x"}, valid={"v": "x", "w": "x"}, test={"t": "x", "u": "y"})
    assert moves(found) == {
        ("v", "valid", "train"),
        ("w", "valid", "train"),
        ("t", "test", "train"),
    }


def test_copies_within_a_split_stay() -> None:
    assert not moves(scans(train={"a": "x", "b": "x"}, valid={"v": "y", "w": "y"}))


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ({"a": "step 0"}, {"b": "step 1"}, {"c": "step 2"}),
        ({"a": "step 0"}, {"c": "step 2"}, {"b": "step 1"}),
        ({"a": "step 0"}, {"b": "step 1", "c": "step 2"}, {"t": "other"}),
        ({"a": "step 0"}, {"c": "step 2", "b": "step 1"}, {"t": "other"}),
    ],
)
def test_a_copy_of_a_copy_moves_too(
    train: dict[str, str], valid: dict[str, str], test: dict[str, str]
) -> None:
    assert not moves(scans(train={"a": "step 0"}, valid={"c": "step 2"}))
    found = find_moves(scans(train=train, valid=valid, test=test))
    assert {name: move.to_split for name, move in found.items()} == {"b": "train", "c": "train"}
    assert {name: move.copy_of for name, move in found.items()} == {"b": "a", "c": "b"}


def test_a_copy_that_another_image_has_hidden_is_found() -> None:
    # Before `v` moves, it is the one in valid that is most similar to `t`, but not a copy of it.
    found = scans(
        train={"a": "object"}, valid={"v": "object", "w": "step 2"}, test={"t": "step 1", "u": ""}
    )
    assert moves(found) == {("v", "valid", "train"), ("t", "test", "valid")}


def test_a_chain_of_frames_moves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[int] = []

    def counted(images: list[ImageScan], min_similarity: float) -> list[ComparedSplit]:
        searches.append(len(images))
        return compared_splits(images, min_similarity)

    monkeypatch.setattr("segtune.exports.moved_copies.compared_splits", counted)
    frames = {f"{n}": f"step {n}" for n in range(6)}
    found = scans(train={"a": "step 0"}, valid={**frames, "other": "x"})
    assert {name for name, _, _ in moves(found)} == set(frames)
    assert searches == [8, 8]


def test_an_image_that_moves_twice_comes_from_where_it_was() -> None:
    # Only once `u` is in train does `w`, and with it `v`, have a copy there.
    found = scans(
        train={"a": "step 0"},
        valid={"w": "step 2", "o": "object"},
        test={"v": "step 2", "p": "object", "u": "step 1"},
    )
    assert moves(found) == {
        ("u", "test", "train"),
        ("w", "valid", "train"),
        ("v", "test", "train"),
        ("p", "test", "valid"),
    }
