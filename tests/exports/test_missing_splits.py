"""Splits that an export lacks: held out by original image, shared with valid, or refused."""

from pathlib import Path
from typing import Any

import pytest

from tests.conversion import convert, refused
from tests.format_writers import DrawnImage, Thing, write_coco

SQUARE = Thing(0, (4.0, 4.0, 16.0, 16.0), (4.0, 4.0, 20.0, 4.0, 20.0, 20.0, 4.0, 20.0))


def augmented_copies(split: str, originals: int) -> list[DrawnImage]:
    """Three copies of every original image, as Roboflow's augmentation makes them."""
    return [
        DrawnImage(f"{split}{original}_jpg.rf.{version * 'x'}", 40, 30, (SQUARE,))
        for original in range(originals)
        for version in (1, 2, 3)
    ]


def originals_of(values: dict[str, Any], split: str) -> set[str]:
    names = [Path(image["file_name"]).name for image in values[split]["images"]]
    return {name.partition(".rf.")[0] for name in names}


def test_a_missing_valid_split_is_held_out_by_original_image(tmp_path: Path) -> None:
    scene = {"train": augmented_copies("a", 20), "test": augmented_copies("t", 2)}
    write_coco(tmp_path / "export", scene)
    values = convert(tmp_path / "export", tmp_path / "out")
    assert len(values["valid"]["images"]) == 9  # 15% of 20 originals, with all their copies
    assert not originals_of(values, "train") & originals_of(values, "valid")
    assert len(values["train"]["images"]) == 51
    assert len(values["train"]["annotations"]) == 51
    rule = next(r for r in values["conversion"]["repairs"] if "held out" in r["rule"])
    assert rule["rule"].startswith("no valid split")
    assert rule["count"] == 9
    assert values["valid"] == convert(tmp_path / "export", tmp_path / "again")["valid"]
    other = convert(tmp_path / "export", tmp_path / "other", holdout_seed=1)
    assert originals_of(other, "valid") != originals_of(values, "valid")
    more = convert(tmp_path / "export", tmp_path / "more", holdout_fraction=0.4)
    assert len(more["valid"]["images"]) == 24


def test_a_missing_test_split_is_the_users_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = {"train": augmented_copies("a", 20), "valid": augmented_copies("v", 2)}
    write_coco(tmp_path / "export", scene)
    line = refused(tmp_path / "export", tmp_path / "out", capsys)
    assert "missing_test: hold_out" in line and "missing_test: valid" in line
    held_out = convert(tmp_path / "export", tmp_path / "held_out", missing_test="hold_out")
    assert len(held_out["test"]["images"]) == 9
    assert not originals_of(held_out, "train") & originals_of(held_out, "test")
    shared = convert(tmp_path / "export", tmp_path / "shared", missing_test="valid")
    assert shared["test"] == shared["valid"]
    assert len(shared["manifest"]["images"]) == 66
    assert any("optimistically biased" in r["rule"] for r in shared["conversion"]["repairs"])


def test_too_few_images_to_hold_any_out_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = {"train": augmented_copies("a", 2), "test": augmented_copies("t", 1)}
    write_coco(tmp_path / "export", scene)
    assert "no valid split" in refused(tmp_path / "export", tmp_path / "out", capsys)
