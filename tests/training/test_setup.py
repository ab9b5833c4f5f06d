"""A run prepared: what is trained where the data has no masks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.core.processes import Processes
from segtune.training import setup
from segtune.training.setup import Inputs, prepare_run
from tests.converted import write_converted
from tests.train_runs import finish, history, refused, start, train_settings


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
    inputs = Inputs(
        coco=coco, out=tmp_path, model="tiny", weights="default", image_size=None, workers=0
    )
    processes = Processes(rank=1, count=1, device=torch.device("meta"))
    run = prepare_run(
        inputs, train_settings(), processes=processes, folder=tmp_path / "checkpoints"
    )
    assert drawn_on == {"cpu"}
    assert {p.device.type for p in run.model.parameters()} == {"meta"}
