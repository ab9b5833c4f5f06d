"""Fractions of the training split, and the curve through the scores of runs on them."""

import json
import re
from pathlib import Path

import pytest

from segtune import learning_curve, learning_curve_page, learning_curve_subset
from segtune.core.typed_json import write_typed
from segtune.dataset.coco import Annotation, Category, Image, Split, read_manifest, read_split
from segtune.dataset.tiles import TILES, Tiles, tiles_beside
from segtune.learning_curve_subset import subset
from tests.converted import write_converted


def split_of(originals: int, copies: int = 3) -> Split:
    """Originals with their augmented copies, two objects on each."""
    images = tuple(
        Image(n, f"{n}.png", 8, 8, original=f"original {n // copies}")
        for n in range(originals * copies)
    )
    annotations: dict[int, tuple[Annotation, ...]] = {
        image.id: (_object(2 * image.id + 1, image), _object(2 * image.id + 2, image))
        for image in images
    }
    return Split("train", Path(), (Category(1, "disc", "disc"),), images, annotations)


def _object(number: int, image: Image) -> Annotation:
    return Annotation(
        id=number,
        image_id=image.id,
        category_id=1,
        bbox_xywh=(1.0, 1.0, 2.0, 2.0),
        area=4.0,
        segmentation=None,
        iscrowd=0,
    )


def test_copies_stay_together_and_fractions_lie_within_each_other() -> None:
    whole = split_of(20)
    ids: set[int] = set()
    for fraction, originals in ((0.25, 5), (0.5, 10), (1.0, 20)):
        part = subset(whole, fraction)
        mine = {image.id for image in part.images}
        assert len({image.original for image in part.images}) == originals
        assert len(mine) == 3 * originals
        assert ids < mine
        assert {a.image_id for a in part.objects} == mine
        assert len(part.objects) == 2 * len(mine)
        assert part.categories == whole.categories
        ids = mine


def test_a_fraction_of_tiles_consists_of_tiles(tmp_path: Path) -> None:
    coco, out = write_converted(tmp_path), tmp_path / "half"
    command = ["--coco", str(coco), "--fraction", "0.5", "--out", str(out)]
    tiles = Tiles(side=640, overlap=0.3)
    write_typed(coco / TILES, tiles)
    learning_curve_subset.main(command)
    assert tiles_beside(out) == tiles
    (coco / TILES).unlink()
    learning_curve_subset.main(command)
    assert tiles_beside(out) is None


def test_a_fraction_is_never_empty_and_does_not_depend_on_the_order() -> None:
    whole = split_of(2)
    assert len(subset(whole, 0.01).images) == 3
    reverse = Split("train", Path(), whole.categories, whole.images[::-1], whole.annotations)
    names = [{i.original for i in subset(split, 0.5).images} for split in (whole, reverse)]
    assert names[0] == names[1]


def test_which_originals_are_chosen_does_not_change() -> None:
    # Results of earlier versions can be compared: the order is that of SHA-256 of the names.
    chosen = {image.original for image in subset(split_of(8), 0.25).images}
    assert chosen == {"original 0", "original 7"}


def test_an_image_without_a_known_original_is_its_own() -> None:
    split = split_of(4, copies=1)
    images = tuple(Image(i.id, i.file_name, 8, 8) for i in split.images)
    assert len(subset(Split("train", Path(), (), images, split.annotations), 0.5).images) == 2


def test_the_command_writes_a_dataset_that_can_be_trained_on(tmp_path: Path) -> None:
    coco = write_converted(tmp_path)
    before = {path.name: json.loads(path.read_text()) for path in coco.iterdir()}
    half = tmp_path / "half"
    learning_curve_subset.main(["--coco", str(coco), "--fraction", "0.5", "--out", str(half)])
    assert len(json.loads((half / "train.json").read_text())["images"]) == 4
    for name in ("valid.json", "manifest.json"):
        assert json.loads((half / name).read_text()) == before[name]
    assert before == {path.name: json.loads(path.read_text()) for path in coco.iterdir()}


def test_a_relative_root_leads_to_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    coco = write_converted(tmp_path / "data")
    (coco / "manifest.json").write_text(json.dumps({"root": "..", "images": []}))
    half = Path("results", "curve", "half")
    learning_curve_subset.main(["--coco", str(coco), "--fraction", "0.5", "--out", str(half)])
    root = json.loads((half / "manifest.json").read_text())["root"]
    assert Path(root) == Path("..", "..", "..", "data")
    assert read_manifest(half).root == tmp_path / "data"
    part = read_split(half / "train.json")
    assert all(part.image_path(image).is_file() for image in part.images)


@pytest.mark.parametrize("fraction", ["0", "-1", "1.5"])
def test_a_fraction_is_between_0_and_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fraction: str
) -> None:
    coco = write_converted(tmp_path)
    with pytest.raises(SystemExit) as raised:
        learning_curve_subset.main(
            ["--coco", str(coco), f"--fraction={fraction}", "--out", str(tmp_path / "x")]
        )
    assert raised.value.code == 1
    assert "is not between 0 and 1" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def training_runs(folder: Path, sizes: dict[int, float]) -> list[str]:
    command = []
    for size, score in sizes.items():
        run = write_converted(folder / f"run {size}", {"train": size})
        recipe = {"result": {"best_score": score}, "settings": {"select_by": "cgF1"}}
        (run / "recipe.json").write_text(json.dumps(recipe))
        command += ["--run", str(run), str(run)]
    return command


def test_the_commands_write_numbers_and_a_page(tmp_path: Path) -> None:
    runs = training_runs(tmp_path, {4: 0.3, 8: 0.4, 16: 0.5})
    learning_curve.main([*runs, "--out", str(tmp_path / "out")])
    path = tmp_path / "out" / "learning_curve.json"
    found = json.loads(path.read_text())
    assert [(p["images"], p["score"]) for p in found["points"]] == [(4, 0.3), (8, 0.4), (16, 0.5)]
    assert set(found["points"][0]) == {"images", "score", "fitted"}
    assert found["metric"] == "cgF1"
    assert found["doubled"]["images"] == 32
    assert found["verdict"]["outcome"] == "helps"
    assert [p.name for p in path.parent.iterdir()] == ["learning_curve.json"]
    page = tmp_path / "learning_curve.html"
    learning_curve_page.main(["--curve", str(path), "--out", str(page)])
    text = page.read_text()
    assert f"<h1>{found['verdict']['sentence']}</h1>" in text
    assert '<p class="status">More data helps</p>' in text
    assert text.count("<circle") == 4
    assert (
        f'<th scope="row">32</th><td>not trained</td><td>{found["doubled"]["fitted"]:.4f}' in text
    )
    assert "cgF1 on the valid split" in text


def test_one_size_is_not_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        learning_curve.main([*training_runs(tmp_path, {4: 0.3}), "--out", str(tmp_path / "out")])
    assert raised.value.code == 1
    assert "different numbers of images" in capsys.readouterr().err


def test_a_recipe_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = training_runs(tmp_path, {4: 0.3, 8: 0.4})
    Path(command[1], "recipe.json").write_text("{}")
    with pytest.raises(SystemExit) as raised:
        learning_curve.main([*command, "--out", str(tmp_path / "out")])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "recipe.json: settings: cannot read the file" in line


@pytest.mark.parametrize("text", [None, "[]", '{"points": []}'])
def test_a_curve_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    path = tmp_path / "learning_curve.json"
    if text:
        path.write_text(text)
    with pytest.raises(SystemExit) as raised:
        learning_curve_page.main(["--curve", str(path), "--out", str(tmp_path / "x.html")])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"learning_curve\.json: (\S+: )?cannot read the file", line)


@pytest.mark.parametrize("missing", ["train.json", "valid.json", "manifest.json"])
def test_an_incomplete_dataset_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    coco = write_converted(tmp_path)
    (coco / missing).unlink()
    with pytest.raises(SystemExit) as raised:
        learning_curve_subset.main(
            ["--coco", str(coco), "--fraction", "0.5", "--out", str(tmp_path / "x")]
        )
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert missing in line
