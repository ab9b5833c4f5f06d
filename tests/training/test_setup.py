"""A run prepared: what is trained where the data has no masks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.core.config import parse_train
from segtune.core.processes import Processes
from segtune.training import setup
from segtune.training.setup import prepare_run
from tests.converted import write_converted
from tests.train_runs import finish, history, refused, run_inputs, start, train_settings


def test_box_only_data_trains_boxes_and_says_so(tmp_path: Path) -> None:
    coco = write_converted(tmp_path, masks=False)
    output = finish(start(coco, tmp_path / "out", epochs=1))
    assert "training boxes, without a mask loss" in output
    records = history(tmp_path / "out")
    assert not any("loss_mask" in record for record in records)
    assert not any("mask_AP" in record for record in records)
    recipe = json.loads((tmp_path / "out" / "adapter" / "recipe.json").read_text())
    assert not any(name.startswith("segmentation_head") for name in recipe["adapted"])


def test_nothing_to_adapt_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = write_converted(tmp_path, masks=False)
    message = refused(coco, tmp_path / "out", capsys, lora={"segmentation": {}})
    assert "no object has a mask" in message


def described(
    folder: Path, settings: dict[str, Any], *, classes: Sequence[str], printed: Any
) -> str:
    """What a run prints about its negatives before it starts; every image shows each class."""
    coco = write_converted(folder, {"train": 4, "valid": 1})
    ids = range(len(classes))
    categories = [
        {"id": n, "name": classes[n], "prompt": classes[n], "supercategory": "none"} for n in ids
    ]
    for split in ("train", "valid"):
        values = json.loads((coco / f"{split}.json").read_text())
        pairs = [(image["id"], n) for image in values["images"] for n in ids]
        found = [
            {**values["annotations"][0], "id": n, "image_id": image, "category_id": category}
            for n, (image, category) in enumerate(pairs)
        ]
        values = {**values, "categories": categories, "annotations": found}
        (coco / f"{split}.json").write_text(json.dumps(values))
    inputs = run_inputs(coco, folder)
    processes = Processes(rank=0, count=1, device=torch.device("cpu"))
    run = prepare_run(
        inputs, parse_train("tiny", json.dumps(settings)), processes=processes, folder=folder
    )
    assert run.history
    run.history.close()
    return str(printed.readouterr().out)


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"ood_negatives": []}, "List things that your images do not show in train.ood_negatives"),
        ({"ood_negatives": ["disc"]}, "List things that your images do not show"),
        ({"min_negatives": 0}, "Set train.min_negatives"),
        ({"max_negatives": 0}, "Set train.max_negatives"),
    ],
)
def test_a_run_without_negatives_warns_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], fix: str
) -> None:
    output = described(tmp_path, settings, classes=["disc"], printed=capsys)
    assert "negative prompts per epoch: 0 of absent classes, 0 out-of-distribution" in output
    assert "WARNING: images that show something are not prompted with anything else" in output
    assert fix in output


def test_a_run_says_how_many_negatives_it_has_and_which_nouns_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nouns = ["unicorn", "giraffe", "ghost"]
    settings = {"ood_negatives": nouns, "extra_negatives": ["ghosts"], "min_negatives": 2}
    output = described(tmp_path, settings, classes=["giraffes", "disc"], printed=capsys)
    # Four images; an extra negative counts like an absent class.
    assert "per epoch: 4 of absent classes, 4 out-of-distribution (1 nouns)" in output
    assert "nouns left out because of a class or prompt: giraffe (giraffes), ghost" in output
    assert "WARNING" not in output


def test_adapters_are_drawn_before_the_model_moves_to_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The generator of a GPU draws other values from the same seed.
    coco, drawn_on = write_converted(tmp_path), set[str]()
    inject_lora = setup.inject_lora

    def noting(model: torch.nn.Module, *arguments: Any) -> Any:
        drawn_on.update(p.device.type for p in model.parameters())
        return inject_lora(model, *arguments)

    monkeypatch.setattr(setup, "inject_lora", noting)
    inputs = run_inputs(coco, tmp_path)
    processes = Processes(rank=1, count=1, device=torch.device("meta"))
    run = prepare_run(
        inputs, train_settings(), processes=processes, folder=tmp_path / "checkpoints"
    )
    assert drawn_on == {"cpu"}
    assert {p.device.type for p in run.model.parameters()} == {"meta"}
