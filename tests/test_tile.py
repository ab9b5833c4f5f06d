"""The tile command, and training and predicting in tiles."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

from segtune import train as train_command
from segtune.core.partial_results import add_image
from segtune.dataset.batch import load_image
from segtune.dataset.coco import Split, read_manifest, read_split
from segtune.dataset.mask_windows import cut
from segtune.dataset.masks import (
    mask_to_rle,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_mask,
    segmentation_to_rle,
)
from segtune.dataset.tiles import Tiles
from segtune.dataset.trained_run import read_run
from segtune.model import tiled_inference
from segtune.model.inference import PreparedImage, PromptDetections
from segtune.model.official_format import write_official
from segtune.model.weights import load_base_model
from segtune.predict import main as predict
from segtune.tile import main as tile
from tests.converted import SIDE, write_converted
from tests.scenes import ellipse
from tests.train_runs import arguments as train_arguments
from tests.trained_runs import run_files, write_run

TILES = Tiles(32, 0.25)
SETTINGS = ("--settings", '{"side": 32}')


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_converted(tmp_path_factory.mktemp("converted"))


@pytest.fixture(scope="module")
def tiles(coco: Path) -> Path:
    folder = coco.parent / "tiles"
    tile(["--coco", str(coco), "--out", str(folder), *SETTINGS])
    return folder


def test_tiles_are_a_dataset_of_exact_parts_of_the_images(coco: Path, tiles: Path) -> None:
    entries = {entry.path: entry for entry in read_manifest(tiles).images}
    names = set()
    for name in ("train", "valid"):
        whole, split = (read_split(folder / f"{name}.json") for folder in (coco, tiles))
        assert split.categories == whole.categories
        assert {image.original for image in split.images} == {i.file_name for i in whole.images}
        for image in split.images:
            source = np.asarray(PilImage.open(whole.root / image.original))
            *_, x, y = Path(image.file_name).stem.split("_")
            left, top = int(x[1:]), int(y[1:])
            part = source[top : top + image.height, left : left + image.width]
            assert (np.asarray(PilImage.open(split.image_path(image))) == part).all()
            content = split.image_path(image).read_bytes()
            entry = entries[image.file_name]
            assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
            names.add(image.file_name)
    assert names == entries.keys()
    written = {p.relative_to(tiles / "images").as_posix() for p in tiles.rglob("*.png")}
    assert written == names


def test_the_summary_says_how_large_tiles_are_and_counts_them(tiles: Path) -> None:
    values = json.loads((tiles / "tiles.json").read_text())
    train = read_split(tiles / "train.json")
    assert (values["side"], values["overlap"]) == (32, 0.25)
    assert values["reason"] == "tiles of 32 px, set in the configuration"
    with_objects = sum(any(not a.iscrowd for a in train.annotations[i.id]) for i in train.images)
    assert values["splits"]["train"] == {
        "images": 8,
        "tiles_with_objects": with_objects,
        "empty_tiles": len(train.images) - with_objects,
        "objects": sum(not a.iscrowd for a in train.objects),
        "ignored_pieces": sum(a.iscrowd for a in train.objects),
    }


def test_the_same_tiles_come_again_and_those_of_another_side_leave(
    coco: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tiles"
    tile(["--coco", str(coco), "--out", str(out), "--settings", '{"side": 48}'])
    own = out / "images" / "train" / "mine.png"
    own.write_bytes(b"")
    tile(["--coco", str(coco), "--out", str(out), *SETTINGS, "--workers", "1"])
    first = {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert {p.as_posix() for p in first if p.suffix == ".png"} == {
        "images/train/mine.png",
        *(f"images/{entry.path}" for entry in read_manifest(out).images),
    }
    tile(["--coco", str(coco), "--out", str(out), *SETTINGS])
    assert first == {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_auto_with_large_objects_leaves_the_dataset_as_it_is(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tile(["--coco", str(coco), "--out", str(tmp_path / "tiles"), "--settings", '"auto"'])
    printed = capsys.readouterr().out
    assert printed.startswith("whole images: a tenth of the objects of train is at most 2")
    values = json.loads((tmp_path / "tiles" / "tiles.json").read_text())
    assert values["side"] is None and values["reason"] in printed
    assert read_split(tmp_path / "tiles" / "train.json") == read_split(coco / "train.json")
    assert not (tmp_path / "tiles" / "images").exists()


def test_tiles_of_a_rotated_photograph_are_upright(tmp_path: Path) -> None:
    coco = write_converted(tmp_path, {"train": 1, "valid": 1, "test": 1})
    path = tmp_path / "train" / "1.png"
    upright = np.asarray(PilImage.open(path))
    exif = PilImage.Exif()
    exif[0x0112] = 6  # a quarter of a turn
    PilImage.fromarray(np.rot90(upright).copy()).save(path, exif=exif)
    tile(["--coco", str(coco), "--out", str(tmp_path / "tiles"), *SETTINGS])
    (place,) = (tmp_path / "tiles" / "images" / "train").glob("1_*_x16_y32.png")
    crop = PilImage.open(place)
    assert (np.asarray(crop) == upright[32:64, 16:48]).all()


@pytest.mark.parametrize("damage", ["size", "missing", "setting"])
def test_what_cannot_be_cut_is_refused_and_changes_nothing(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = write_converted(tmp_path, {"train": 2, "valid": 1, "test": 1})
    out = tmp_path / "tiles"
    tile(["--coco", str(coco), "--out", str(out), *SETTINGS])
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    capsys.readouterr()
    image = tmp_path / "train" / "2.png"
    if damage == "size":
        PilImage.new("RGB", (SIDE, SIDE + 1)).save(image)
    elif damage == "missing":
        image.unlink()
    settings = SETTINGS if damage != "setting" else ("--settings", '{"side": 31}')
    with pytest.raises(SystemExit) as raised:
        tile(["--coco", str(coco), "--out", str(out), *settings])
    assert raised.value.code
    (line,) = capsys.readouterr().err.splitlines()
    expected = {
        "size": "64 x 65 pixels instead of 64 x 64",
        "missing": "2.png",
        "setting": "side: Value error, neither auto nor an integer of at least 32 pixels",
    }
    assert expected[damage] in line
    assert before == {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_full_disk_is_one_line(
    tmp_path: Path,
    workers: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coco, out = write_converted(tmp_path, {"train": 2, "valid": 1, "test": 1}), tmp_path / "tiles"

    def full(path: Path, _: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    # A worker is forked, and inherits this.
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SystemExit):
        tile(["--coco", str(coco), "--out", str(out), *SETTINGS, "--workers", workers])
    (line,) = capsys.readouterr().err.splitlines()
    start = f"segtune tile: ResourceError: {out}/.writing/images/train/1_"
    assert line.startswith(start)
    assert ": cannot write the file (No space left on device) on the disk of " in line
    assert not out.exists()


def write_small_objects(folder: Path) -> Path:
    """Images of 256 pixels, with labels of 12."""
    coco = write_converted(folder, {"train": 2, "valid": 1, "test": 1})
    for name in ("train", "valid", "test"):
        values = json.loads((coco / f"{name}.json").read_text())
        for image in values["images"]:
            image.update(width=256, height=256)
            PilImage.new("RGB", (256, 256)).save(folder / image["file_name"])
        for record in values["annotations"]:
            x, y = record["bbox"][:2]
            corners = [x, y, x + 12, y, x + 12, y + 12, x, y + 12]
            record.update(bbox=[x, y, 12, 12], area=144, segmentation=[corners])
        (coco / f"{name}.json").write_text(json.dumps(values))
    return coco


def test_by_hand_tiles_suit_the_objects(tmp_path: Path) -> None:
    coco, tiles, out = write_small_objects(tmp_path), tmp_path / "tiles", tmp_path / "tuned.json"
    tile(["--coco", str(coco), "--out", str(tiles), "--model", "tiny"])
    assert json.loads((tiles / "tiles.json").read_text())["side"] == 96
    train = read_split(tiles / "train.json")
    assert {(image.width, image.height) for image in train.images} == {(96, 96)}
    test = ["--coco", str(coco / "test.json"), "--tiles", str(tiles / "tiles.json")]
    few = ["--settings", '{"max_detections": 2}']
    predict([*test, "--model", "tiny", "--weights", "random:0", "--out", str(out), *few])
    sizes = [record["segmentation"]["size"] for record in json.loads(out.read_text())]
    assert sizes and all(size == [256, 256] for size in sizes)


def test_the_recipe_of_a_training_has_its_tiles(tmp_path: Path) -> None:
    coco = write_converted(tmp_path, {"train": 2, "valid": 1, "test": 1})
    tiles, out = tmp_path / "tiles", tmp_path / "trained"
    tile(["--coco", str(coco), "--out", str(tiles), *SETTINGS])
    arguments = train_arguments(tiles, out, epochs=1, max_negatives=1)
    train_command.main([*arguments, "--validated", str(coco)])
    recipe = json.loads((out / "adapter" / "recipe.json").read_text())
    assert recipe["tiles"] == {"side": 32, "overlap": 0.25}
    write_run(tmp_path, {**run_files({"disc": "disc"}, [0.3]), "train/adapter/recipe.json": recipe})
    assert read_run(tmp_path)[0].tiles == TILES


# --- predictions ---------------------------------------------------------------------------------


def test_the_model_sees_the_tiles_that_it_was_trained_on(
    coco: Path, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[PreparedImage] = []

    def nothing(_: Any, __: Any, prepared: Iterator[PreparedImage], **___: Any) -> Iterator[Any]:
        for image in prepared:
            seen.append(image)
            yield image, iter(())

    monkeypatch.setattr(tiled_inference, "detect_in_split", nothing)
    path = str(coco / "train.json")
    out = str(tmp_path / "x.json")
    predict(["--coco", path, "--tiles", str(tiles / "tiles.json"), "--out", out])
    split = read_split(tiles / "train.json")
    assert len(seen) == 8 * len(TILES.windows(SIDE, SIDE))
    found = {image.pixels.numpy().tobytes() for image in seen}
    trained = [load_image(split.image_path(image), 96)[0] for image in split.images]
    assert {pixels.numpy().tobytes() for pixels in trained} <= found
    assert json.loads(Path(out).read_text()) == []


def write_crowded(folder: Path, count: int) -> Path:
    """One large image with many discs, in several rows."""
    coco = write_converted(folder, {"train": 1, "valid": 1, "test": 1})
    side = 16 * count
    values = json.loads((coco / "test.json").read_text())
    values["images"][0].update(width=side, height=side)
    places = [(x * 16 + 8, y * 16 + 8) for x in range(count) for y in range(count)]
    values["annotations"] = []
    for number, center in enumerate(places, start=1):
        polygons = ellipse(center, np.array([7.6, 5.2]))
        rle = segmentation_to_rle(polygons, side, side)
        record = {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0}
        record |= {"segmentation": polygons, "bbox": rle_bbox_xywh(rle), "area": rle_area(rle)}
        values["annotations"].append(record)
    (coco / "test.json").write_text(json.dumps(values))
    PilImage.new("RGB", (side, side)).save(folder / "test" / "1.png")
    return coco


def perfect_model(split: Split, tiles: Tiles) -> Any:
    """In place of the model: in each window, in their order, the ground truth that it shows."""

    def detect(_: Any, __: Any, prepared: Iterator[PreparedImage], **___: Any) -> Iterator[Any]:
        (image,) = split.images
        windows = tiles.windows(image.width, image.height)
        for place, window in zip(prepared, windows, strict=True):
            rles = [
                cut(segmentation_to_rle(a.segmentation or [], image.height, image.width), window)
                for a in split.objects
            ]
            rles = [rle for rle in rles if rle_area(rle)]
            masks = [segmentation_to_mask(rle, window.height, window.width) for rle in rles]
            logits = torch.tensor(np.array(masks)).float() * 2 - 1
            boxes = [rle_bbox_xywh(rle) for rle in rles]
            yield place, iter([(PromptDetections(1, [0.5] * len(rles), boxes), logits)])

    return detect


def test_more_objects_are_found_than_the_model_has_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco = write_crowded(tmp_path, 9)
    split = read_split(coco / "test.json")
    monkeypatch.setattr(tiled_inference, "detect_in_split", perfect_model(split, Tiles(48, 0.25)))
    out = tmp_path / "out.json"
    predict(["--coco", str(coco / "test.json"), "--tiles", "48", "--out", str(out)])
    results = json.loads(out.read_text())
    assert len(results) == 81
    expected = {
        mask_to_rle(segmentation_to_mask(a.segmentation or [], 144, 144))["counts"]
        for a in split.objects
    }
    assert {r["segmentation"]["counts"] for r in results} == expected
    assert all(r["segmentation"]["size"] == [144, 144] for r in results)


def test_one_tile_is_the_whole_image(coco: Path, tmp_path: Path) -> None:
    whole = ["--coco", str(coco / "test.json"), "--weights", "random:0"]
    predict([*whole, "--out", str(tmp_path / "whole.json")])
    predict([*whole, "--tiles", "64", "--out", str(tmp_path / "tile.json")])
    assert (tmp_path / "whole.json").read_text() == (tmp_path / "tile.json").read_text()


def test_a_prediction_in_tiles_resumes_with_the_next_image(
    coco: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh, out = tmp_path / "fresh.json", tmp_path / "out.json"
    source = ["--coco", str(coco / "test.json"), "--weights", "random:0", "--out"]
    predict([*source, str(fresh), "--tiles", "48"])

    class Killed(Exception):
        pass

    def third_fails(part: Any, image_id: int, records: list[Any]) -> None:
        if image_id == 3:
            raise Killed
        add_image(part, image_id, records)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("segtune.model.partial_predictions.add_image", third_fails)
        predict([*source, str(out), "--tiles", "48"])
    shutil.copytree(tmp_path / ".out.json.partial", tmp_path / ".other.json.partial")
    capsys.readouterr()
    predict([*source, str(out), "--tiles", "48"])
    assert "resuming: 2 of 4 images are finished" in capsys.readouterr().out
    assert out.read_bytes() == fresh.read_bytes()
    # In other tiles, nothing of it can be used.
    predict([*source, str(tmp_path / "other.json"), "--tiles", "64"])
    assert "resuming" not in capsys.readouterr().out


def test_a_run_on_tiles_predicts_in_tiles(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Tiles] = []
    predict_in_tiles = tiled_inference.predict_in_tiles

    def spying(*arguments: Any, tiles: Tiles, **named: Any) -> Iterator[Any]:
        used.append(tiles)
        yield from predict_in_tiles(*arguments, tiles=tiles, **named)

    monkeypatch.setattr(tiled_inference, "predict_in_tiles", spying)
    files = run_files({"round": "disc"}, [0.0])
    files["train/adapter/recipe.json"]["tiles"] = {"side": 40, "overlap": 0.3}
    write_run(tmp_path / "run", files)
    (tmp_path / "run" / "merge").mkdir()
    model = load_base_model("tiny", "random:0")
    write_official(tmp_path / "run" / "merge" / "sam3.pt", model.state_dict(), {})
    images = ["--images", str(coco.parent / "valid"), "--out", str(tmp_path / "out.json")]
    predict(["--run", str(tmp_path / "run"), *images])
    predict(["--run", str(tmp_path / "run"), *images, "--tiles", "50"])
    assert used == [Tiles(40, 0.3), Tiles(50, 0.25)]
