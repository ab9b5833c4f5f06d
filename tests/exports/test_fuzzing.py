"""Damaged exports of every format: converted, or refused in one line; nothing else."""

import json
import random
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtune import convert, validate
from segtune.dataset.coco import read_split
from tests.export_writer import write_export, zip_export
from tests.format_writers import OPTIONS, SPLITS, WRITERS, DrawnImage, Scene, Thing
from tests.fuzzing import exit_message, failures, files_in, mutated, run_inputs

RING = np.zeros((30, 40), np.uint8)
RING[3:12, 4:20] = 1
RING[5:9, 7:15] = 0
POLYGON = (21.0, 5.0, 36.0, 5.5, 35.0, 20.0, 22.0, 19.0)
IMAGES = (".jpg", ".png")
LABELS_PER_IMAGE = 4  # label files are mutated this many times as often as images
# An archive; a CSV of fields; images of several formats; what convert wrote.
SPECIAL = ["zip", "table", "images", "converted"]


def scene(kind: str) -> Scene:
    of_masks = kind in ("sam2", "semantic")
    things = [Thing(0, (4.0, 3.0, 16.0, 9.0), mask=RING if of_masks or kind == "coco" else None)]
    if not of_masks:
        of_polygon = Thing(1, (21.0, 5.0, 15.0, 15.0), POLYGON)
        things += [of_polygon, Thing(2, (5.0, 15.0, 9.0, 8.0))]
    return {split: [DrawnImage(f"{split}0", 40, 30, tuple(things))] for split in SPLITS}


def write_intact(folder: Path, kind: str) -> Path:
    """An intact export, or a converted dataset; returns its folder."""
    if kind == "converted":
        export, coco = write_export(folder / "export"), folder / "coco"
        convert.main(["--export", str(export), "--out", str(coco)])
        return coco
    of = {"zip": "coco", "table": "yolo", "images": "voc"}.get(kind, kind)
    WRITERS[of](folder / "export", scene(of))
    if kind == "table":
        rows = "\n".join(f"{split}0.jpg,top" for split in SPLITS)
        (folder / "export" / "views.csv").write_text(f"file_name,view\n{rows}\n")
    if kind == "images":
        deep = np.linspace(0, 65535, 1200).round().astype(np.uint16).reshape(30, 40)
        for split, image_format in zip(SPLITS, ("TIFF", "PNG", "WEBP"), strict=True):
            pixels = Image.new("RGB", (40, 30)) if split == "test" else Image.fromarray(deep)
            pixels.save(folder / "export" / split / f"{split}0.jpg", image_format)
    if kind == "zip":
        zip_export(folder / "export", folder / "export.zip")
        shutil.rmtree(folder / "export")
    return folder


def choose(folder: Path, kind: str, rng: random.Random) -> Path:
    """The file to mutate."""
    if kind == "table":
        return folder / "export" / "views.csv"
    names = files_in(folder)
    if kind == "images":
        names = [name for name in names if name.endswith(IMAGES)]
    weights = [1 if name.endswith(IMAGES) else LABELS_PER_IMAGE for name in names]
    return folder / rng.choices(names, weights)[0]


def run_one(intact: Mapping[str, Path], kind: str, rng: random.Random) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name) / "in"
        shutil.copytree(intact[kind], folder)
        path = choose(folder, kind, rng)
        path.write_bytes(mutated(path.read_bytes(), rng, path.name))
        (check_converted if kind == "converted" else check_export)(folder, kind, Path(name) / "out")


def check_export(folder: Path, kind: str, out: Path) -> None:
    options = dict(OPTIONS.get(kind, {}))
    if kind == "table":
        options = {"template": "{name}, {view} view", "fields": "views.csv"}
    export = folder / ("export.zip" if kind == "zip" else "export")
    settings = ["--settings", json.dumps(options)]
    error = exit_message(convert.main, ["--export", str(export), "--out", str(out), *settings])
    if error:
        assert not list(out.glob("*.json")), "refused, and yet written"
        return
    for split in SPLITS:
        read_split(out / f"{split}.json")
    exit_message(validate.main, ["--coco", str(out), "--out", str(out / "validate")])


def check_converted(folder: Path, kind: str, out: Path) -> None:
    exit_message(validate.main, ["--coco", str(folder), "--out", str(out)])


def fuzz(arguments: list[str]) -> None:
    """Run the inputs of a range of seeds; in a process of its own."""
    folder, first, last = arguments
    kinds = [*WRITERS, *SPECIAL]
    intact = {kind: write_intact(Path(folder) / kind, kind) for kind in kinds}
    run_inputs(kinds, partial(run_one, intact), range(int(first), int(last)))


def test_damaged_exports_are_converted_or_refused_in_one_line(tmp_path: Path) -> None:
    assert failures(fuzz, [str(tmp_path), "0", "650"], seconds=200) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_damaged_exports_are_converted_or_refused_in_one_line(tmp_path: Path) -> None:
    assert failures(fuzz, [str(tmp_path), "1000", "13500"], seconds=3500) == []
