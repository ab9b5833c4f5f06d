"""A run prepared: what is trained where the data has no masks."""

import json
from pathlib import Path

import pytest

from tests.converted import write_converted
from tests.train_runs import finish, history, refused, start


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
