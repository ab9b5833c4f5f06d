"""Shares of the training split, and what their scores promise."""

import json
from pathlib import Path
from typing import Any

import pytest

from segtune import learning_curve, learning_curve_subset
from segtune.learning_curve import extrapolated
from segtune.learning_curve_subset import share_of
from tests.converted import write_converted


def dataset(sources: int, variants: int = 3) -> dict[str, Any]:
    images = [
        {"id": n, "file_name": f"{n}.png", "source_name": f"source {n // variants}"}
        for n in range(sources * variants)
    ]
    return {
        "images": images,
        "annotations": [{"id": n + 1, "image_id": n // 2} for n in range(2 * len(images))],
        "categories": [{"id": 1}],
    }


def test_variants_stay_together_and_shares_lie_within_each_other() -> None:
    whole = dataset(20)
    ids: set[int] = set()
    for share, sources in ((0.25, 5), (0.5, 10), (1.0, 20)):
        part = share_of(whole, share)
        mine = {image["id"] for image in part["images"]}
        assert len({image["source_name"] for image in part["images"]}) == sources
        assert len(mine) == 3 * sources
        assert ids < mine
        assert {a["image_id"] for a in part["annotations"]} == mine
        assert len(part["annotations"]) == 2 * len(mine)
        assert part["categories"] == whole["categories"]
        ids = mine


def test_a_share_is_never_empty_and_does_not_depend_on_the_order() -> None:
    whole = dataset(2)
    assert len(share_of(whole, 0.01)["images"]) == 3
    turned = {**whole, "images": whole["images"][::-1]}
    names = [{i["source_name"] for i in share_of(d, 0.5)["images"]} for d in (whole, turned)]
    assert names[0] == names[1]


def test_the_command_writes_a_dataset_that_can_be_trained_on(tmp_path: Path) -> None:
    coco = write_converted(tmp_path)
    before = {path.name: json.loads(path.read_text()) for path in coco.iterdir()}
    learning_curve_subset.main(
        ["--coco", str(coco), "--share", "0.5", "--out", str(tmp_path / "half")]
    )
    assert len(json.loads((tmp_path / "half" / "train.json").read_text())["images"]) == 4
    for name in ("valid.json", "manifest.json"):
        assert json.loads((tmp_path / "half" / name).read_text()) == before[name]
    assert before == {path.name: json.loads(path.read_text()) for path in coco.iterdir()}


@pytest.mark.parametrize("share", ["0", "-1", "1.5"])
def test_a_share_is_between_0_and_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], share: str
) -> None:
    coco = write_converted(tmp_path)
    with pytest.raises(SystemExit) as raised:
        learning_curve_subset.main(
            ["--coco", str(coco), f"--share={share}", "--out", str(tmp_path / "x")]
        )
    assert raised.value.code == 1
    assert "is not between 0 and 1" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_power_law_is_found_again() -> None:
    counts = [50, 100, 200]
    found = extrapolated(counts, [1 - 2.0 * n**-0.4 for n in counts])
    assert found["twice"] == {"images": 400, "fitted": pytest.approx(1 - 2.0 * 400**-0.4)}
    assert found["gain"] == pytest.approx(2.0 * (200**-0.4 - 400**-0.4))
    assert found["spread"] == pytest.approx(0.0, abs=1e-9)
    assert found["verdict"].startswith("more data would help: 400 images instead of 200")


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([0.70, 0.702, 0.703], "more data of this kind would help little"),
        ([0.9, 0.8, 0.7], "more data of this kind would help little"),
        ([0.699, 0.7, 0.701], "more data of this kind would help little"),
        ([0.3, 0.7, 0.4], "undecided"),
        ([0.3, 0.6, 0.3], "undecided"),
        ([0.99, 1.0, 1.0], "more data of this kind would help little"),
        ([0.2, 0.3, 0.4], "more data would help"),
    ],
)
def test_the_verdict_follows_from_the_points(scores: list[float], verdict: str) -> None:
    found = extrapolated([50, 100, 200], scores)
    assert found["verdict"].startswith(verdict)


def test_the_order_of_the_trainings_does_not_matter() -> None:
    assert extrapolated([200, 50, 100], [0.4, 0.2, 0.3]) == extrapolated(
        [50, 100, 200], [0.2, 0.3, 0.4]
    )


def trainings(folder: Path, sizes: dict[int, float]) -> list[str]:
    command = []
    for size, score in sizes.items():
        run = write_converted(folder / f"run {size}", {"train": size})
        recipe = {"result": {"best_score": score}, "settings": {"select_by": "AP"}}
        (run / "recipe.json").write_text(json.dumps(recipe))
        command += ["--run", str(run), str(run)]
    return command


def test_the_command_writes_a_page_and_its_numbers(tmp_path: Path) -> None:
    command = trainings(tmp_path, {4: 0.3, 8: 0.4, 16: 0.5})
    learning_curve.main([*command, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "learning_curve.json").read_text())
    assert [(p["images"], p["score"]) for p in found["points"]] == [
        (4, 0.3),
        (8, 0.4),
        (16, 0.5),
    ]
    page = (tmp_path / "out" / "learning_curve.html").read_text()
    assert f"<h1>{found['verdict']}</h1>" in page
    assert page.count("<circle") == 4
    assert "://" not in page


def test_one_size_is_no_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        learning_curve.main([*trainings(tmp_path, {4: 0.3}), "--out", str(tmp_path / "out")])
    assert raised.value.code == 1
    assert "different numbers of images" in capsys.readouterr().err


def test_what_is_no_recipe_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = trainings(tmp_path, {4: 0.3, 8: 0.4})
    Path(command[1], "recipe.json").write_text("{}")
    with pytest.raises(SystemExit) as raised:
        learning_curve.main([*command, "--out", str(tmp_path / "out")])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "recipe.json: no recipe of a training" in line


@pytest.mark.parametrize("missing", ["train.json", "valid.json", "manifest.json"])
def test_a_dataset_that_is_not_whole_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    coco = write_converted(tmp_path)
    (coco / missing).unlink()
    with pytest.raises(SystemExit) as raised:
        learning_curve_subset.main(
            ["--coco", str(coco), "--share", "0.5", "--out", str(tmp_path / "x")]
        )
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert missing in line
