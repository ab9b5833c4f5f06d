"""Labels in shards: listed, predicted and gathered, they are those of one prediction."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from segtune import label_gather, label_list
from segtune.predict import main as predict

RANDOM = ("--weights", "random:0", "--prompt", "disc", "square")
NAMES = ("b/1.png", "a.png", "b-/2.png", "c.png", "d.png")


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, their lists, and the labels of each."""
    folder = tmp_path_factory.mktemp("labeled")
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (40, 50 + number, 3), dtype=np.uint8)
        PilImage.fromarray(pixels).save(path)
    size = '{"images_per_shard": 2}'
    places = ["--images", str(folder / "photos"), "--out", str(folder)]
    label_list.main([*places, "--settings", size])
    for path in sorted((folder / "lists").iterdir()):
        predict_on(folder, folder / "shards" / f"{path.stem}.json", "--list", str(path))
    return folder


def predict_on(folder: Path, out: Path, *more: str) -> None:
    settings = '{"max_detections": 2, "confidence_threshold": 0.0}'
    places = ["--images", str(folder / "photos"), "--out", str(out), *more]
    predict([*RANDOM, *places, "--settings", settings])


def gather(folder: Path, out: Path, shards: Path | None = None) -> None:
    places = ["--lists", str(folder / "lists.json"), "--shards", str(shards or folder / "shards")]
    label_gather.main([*places, "--out", str(out)])


def test_gathered_labels_are_those_of_one_prediction(labeled: Path, tmp_path: Path) -> None:
    predict_on(labeled, tmp_path / "whole.json")
    gather(labeled, tmp_path / "gathered.json")
    assert (tmp_path / "gathered.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    values = json.loads((tmp_path / "whole.json").read_text())
    assert len(values["images"]) == len(NAMES) and len(values["annotations"]) > len(NAMES)
    assert len(list((labeled / "shards").iterdir())) == 3


def test_only_listed_images_are_opened(labeled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    PilImage.new("RGB", (50, 40)).save(folder / "a.png")
    (folder / "b.png").write_text("not an image")
    (tmp_path / "list.txt").write_text("a.png\n")
    predict_on(tmp_path, tmp_path / "x.json", "--list", str(tmp_path / "list.txt"))
    values = json.loads((tmp_path / "x.json").read_text())
    assert [image["file_name"] for image in values["images"]] == ["a.png"]


def test_shards_without_objects_are_gathered(labeled: Path, tmp_path: Path) -> None:
    shards = changed(labeled, tmp_path, "0001", lambda values: values["annotations"].clear())
    gather(labeled, tmp_path / "x.json", shards)
    values = json.loads((tmp_path / "x.json").read_text())
    assert [image["id"] for image in values["images"]] == [1, 2, 3, 4, 5]
    assert {a["image_id"] for a in values["annotations"]} == {1, 2, 5}


def changed(labeled: Path, tmp_path: Path, shard: str, change: Any) -> Path:
    """A copy of the shards in which one has other content, in the same format."""
    (tmp_path / "shards").mkdir()
    for path in (labeled / "shards").iterdir():
        values = json.loads(path.read_text())
        if path.stem == shard:
            change(values)
        tables = [
            f'"{name}": [' + ",".join(f"\n{json.dumps(record)}" for record in records) + "]"
            for name, records in values.items()
        ]
        (tmp_path / "shards" / path.name).write_text("{\n" + ",\n".join(tables) + "}\n")
    return tmp_path / "shards"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["images"].pop(), "1 images, of 2 in its list"),
        (lambda values: values["images"].reverse(), "image 1 has another id"),
        (lambda values: values["images"].insert(0, 3), "image 1 has another id"),
        (lambda values: values["categories"].pop(), "other classes than in"),
        (lambda values: values["annotations"][0].update(image_id=3), "an object in image 3, of 2"),
        (lambda values: values["annotations"].append("x"), "an object in image None, of 2"),
        (lambda values: values.pop("annotations"), "cannot read the table 'annotations' (it is"),
    ],
)
def test_labels_of_other_images_are_refused(
    labeled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    shards = changed(labeled, tmp_path, "0001", change)
    require_one_line(labeled, shards, capsys, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the table 'images' (No such file"),
        ('{"images": []}', "(it is missing)"),
        ('{\n"images": [\n{"id": 1},\n{"id": 2},\n', "(its end is missing)"),
        ('{\n"images": [\n{"id": 1},\n{"id"', "(Expecting ':' delimiter"),
        ('{\n"images": [\n{"id": 1}, {"id": 2}],', "(not a record in each line)"),
        ('{\n"images": [\n' + "[" * 100_000, "(nested too deeply)"),
    ],
    ids=["missing", "one line", "cut", "cut in a record", "two in a line", "deep"],
)
def test_a_damaged_shard_is_refused(
    labeled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    message: str,
) -> None:
    shards = changed(labeled, tmp_path, "", None)
    (shards / "0001.json").unlink()
    if content is not None:
        (shards / "0001.json").write_text(content)
    require_one_line(labeled, shards, capsys, message)


def require_one_line(
    labeled: Path, shards: Path, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    out = shards.parent / "x.json"
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        gather(labeled, out, shards)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("segtune label_gather: DatasetError: ")
    assert f"{shards}/0001.json: " in line and message in line
    assert "Delete the file and run the workflow again" in line
    assert [path.name for path in shards.parent.iterdir()] == ["shards"]


def test_a_damaged_index_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lists.json").write_text('["0000"]')
    with pytest.raises(SystemExit, match="1"):
        gather(tmp_path, tmp_path / "x.json")
    assert "Run segtune.label_list again" in capsys.readouterr().err
