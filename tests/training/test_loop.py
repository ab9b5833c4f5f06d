"""The best epoch is that of the whole run, wherever the run was interrupted."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

from segtune.dataset import preview
from segtune.train import main
from segtune.training import validation
from segtune.training.run import Position
from tests.converted import write_converted
from tests.forked import Forked
from tests.train_runs import arguments

SCORES = (0.1, 0.9, 0.2, 0.3)  # of the base model and three epochs
SETTINGS: dict[str, Any] = {"epochs": 3, "lora": {"detr_decoder": {"rank": 2}}}
RESULTS = ("adapter/adapter_model.safetensors", "valid_base.json", "valid_best.json")


def scored(stop_after: int | None, given: list[str]) -> None:
    """Training whose epochs have these scores, interrupted by a signal after one of them."""
    note_score = validation.note_score

    def note(position: Position, _: float) -> bool:
        if position.epoch == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return note_score(position, SCORES[position.epoch])

    validation.note_score = note
    preview.MIN_PREVIEW_SCORE = 0.0  # so that there is something to show
    main(given)


def run(coco: Path, out: Path, *, stop_after: int | None = None) -> tuple[int | None, str]:
    process = Forked(partial(scored, stop_after), arguments(coco, out, **SETTINGS))
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def test_the_best_epoch_before_an_interruption_is_the_result(tmp_path: Path) -> None:
    coco = write_converted(tmp_path, {"train": 4, "valid": 1})
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run(coco, whole)[0] == 0
    assert run(coco, resumed, stop_after=2)[0] == 130
    status, output = run(coco, resumed)
    assert status == 0, output
    assert "resuming after step 2" in output
    for name in RESULTS:
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name
    assert json.loads((resumed / "valid_best.json").read_text())
    result = json.loads((resumed / "adapter" / "recipe.json").read_text())["result"]
    assert (result["best_epoch"], result["best_score"], result["base_score"]) == (1, 0.9, 0.1)
