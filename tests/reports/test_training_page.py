"""The page of a training run: what it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from segtune import train_page
from segtune.reports.training_page import Recipe, Result, headline
from tests.converted import write_converted
from tests.reports.runs import write_training_run


def test_the_page_says_what_happened(pages: dict[str, Path]) -> None:
    text = pages["train"].read_text("utf-8")
    assert "<h1>Epoch 2 was best: AP 0.5000 on valid, better than 0.1000 before training" in text
    expected = "4 optimizer steps in 2.0 minutes, 2.0 images per second, 25% of the time"
    assert expected in text
    assert "at most 3.0 GB" in text
    assert '<tr class="best"><th scope="row">2 (best)</th><td>0.5000</td><td>0.2500</td>' in text
    assert "from 8.000 to 5.000" in text
    assert '<th scope="row">vision</th><td>10</td><td>1,000</td>' in text
    assert "&#34;note&#34;: &#34;&lt;script&gt;&#34;" in text
    assert "Before training: 4 validation images with 3 objects and 0 detections" in text
    assert "After epoch 2: 4 validation images with 3 objects and 3 detections" in text
    assert text.count("data:image/jpeg;base64,") == 2


def test_the_page_counts_negatives_and_false_alarms(pages: dict[str, Path]) -> None:
    text = pages["train"].read_text("utf-8")
    assert "1,234 times with a class that they do not show and 56 times with an" in text
    assert '<tr><th scope="row">0</th><td>50%</td><td>25%</td></tr>' in text
    assert '<th scope="row">2 (best)</th><td>10%</td><td>25%</td></tr>' in text
    assert "whatever it is prompted with" not in text


def test_a_run_in_which_the_prompt_made_no_difference_says_so(tmp_path: Path) -> None:
    text = page_of(tmp_path, {"absent": 10, "ood": 0, "beside_objects": 0})
    assert "whatever it is prompted with" in text
    assert "train.ood_negatives" in text


def test_a_run_of_an_earlier_version_has_a_page(tmp_path: Path) -> None:
    assert 'id="negatives"' not in page_of(tmp_path, None)


def page_of(folder: Path, negatives: dict[str, int] | None) -> str:
    """The page of a run with these negatives; None for one that knows nothing of them."""
    coco = write_converted(folder)
    train = write_training_run(folder / "run", coco, "disc")
    recipe = json.loads((train / "adapter" / "recipe.json").read_text())
    del recipe["negatives"]
    if negatives:
        recipe["negatives"] = negatives
    else:
        records = [json.loads(line) for line in (train / "history.jsonl").read_text().splitlines()]
        for record in records:
            record.pop("false_alarms", None)
        (train / "history.jsonl").write_text("\n".join(map(json.dumps, records)))
    (train / "adapter" / "recipe.json").write_text(json.dumps(recipe))
    command = ["--coco", str(coco / "valid.json"), "--train", str(train)]
    train_page.main([*command, "--out", str(folder / "summary.html")])
    return (folder / "summary.html").read_text()


@pytest.mark.parametrize(
    ("best", "comparison"), [(0.2, "better"), (0.1, "NOT better"), (0, "NOT better")]
)
def test_training_that_did_not_help_says_so(best: float, comparison: str) -> None:
    result = Result(best_epoch=2, best_score=best, base_score=0.1, seconds=1.0)
    recipe = Recipe(settings={"select_by": "AP"}, result=result, parameters={})
    assert f", {comparison} than 0.1000 before" in headline(recipe)


def damage_recipe(train: Path) -> None:
    (train / "adapter" / "recipe.json").write_text("{}")


def rename_wait(train: Path) -> None:
    text = (train / "history.jsonl").read_text()
    (train / "history.jsonl").write_text(text.replace("data_wait_fraction", "other"))


def remove_detections(train: Path) -> None:
    (train / "valid_best.json").unlink()


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (damage_recipe, "recipe.json"),
        (rename_wait, "history.jsonl"),
        (remove_detections, "valid_best.json"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, file: str
) -> None:
    coco = write_converted(tmp_path)
    train = write_training_run(tmp_path / "run", coco, "disc")
    damage(train)
    command = ["--coco", str(coco / "valid.json"), "--train", str(train)]
    with pytest.raises(SystemExit) as raised:
        train_page.main([*command, "--out", str(tmp_path / "summary.html")])
    assert raised.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert file in line
    assert not (tmp_path / "summary.html").exists()


def test_a_run_of_boxes_has_a_page(tmp_path: Path) -> None:
    coco = write_converted(tmp_path, masks=False)
    train = write_training_run(tmp_path / "run", coco, "disc")
    command = ["--coco", str(coco / "valid.json"), "--train", str(train)]
    train_page.main([*command, "--out", str(tmp_path / "summary.html")])
    settings = json.loads((train / "adapter" / "recipe.json").read_text())["settings"]
    assert f"&#34;epochs&#34;: {settings['epochs']}" in (tmp_path / "summary.html").read_text()
