"""Validation selects the adapter and the detections of the best epoch, not of the last."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from segtune.core.config import parse_train
from segtune.core.processes import Processes
from segtune.dataset.detections import Detection, Detections
from segtune.dataset.mask_grid import on_grid, resampled
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.lora.layers import LoraSpec
from segtune.training import validation
from segtune.training.ood_negatives import NO_NOUNS
from segtune.training.run import Position, Run
from segtune.training.selection import ValidScores
from tests.interrupted import interrupted_run
from tests.module_calls import calls_of
from tests.scenes import OBJECTS, SIDE, detection, split_of

GRID = (40, 50)  # height, width of masks that are scored, in pixels
MASK_AP = (0.1, 0.5, 0.2)  # of the base model, and of two epochs
BEST_EPOCH = 1


def score_of(epoch: int) -> float:
    """Of the only detection of an epoch."""
    return 0.5 + epoch / 10


def validated(monkeypatch: pytest.MonkeyPatch, out: Path, average: bool) -> Run:
    """A run after the validation of each epoch, whose adapters are filled with its number."""
    model = nn.Sequential(nn.Linear(2, 2))
    inject_lora(model, {"0": LoraSpec(rank=1, alpha=1.0)})
    run: Any = SimpleNamespace(
        model=model,
        average={},
        valid=split_of(OBJECTS),
        dataset=SimpleNamespace(image_size=96),
        processes=Processes(0, 1, torch.device("cpu")),
        position=Position(),
        settings=parse_train("tiny", "{}"),
        history=None,
        nouns=NO_NOUNS,
        base_detections=Detections(),
        best_detections=Detections(),
        best_adapter={},
    )

    def detections(*args: Any, **kwargs: Any) -> list[Detection]:
        image, category, box = OBJECTS[0]
        found = detection(image, category, box, score_of(run.position.epoch))
        return [replace(found, rle=resampled(found.rle, (SIDE, SIDE), GRID))]

    def scores(*args: Any) -> ValidScores:
        mask_ap = MASK_AP[run.position.epoch]
        return ValidScores(box_ap=0.0, mask_ap=mask_ap, cgf1=0.0, ap_per_class={})

    monkeypatch.setattr(validation, "_valid_detections", detections)
    monkeypatch.setattr(validation, "valid_scores", scores)
    for epoch in range(len(MASK_AP)):
        run.position.epoch = epoch
        with torch.no_grad():
            for parameter in lora_parameters(model).values():
                parameter.fill_(epoch)
        if average:
            values = lora_parameters(model)
            run.average = {name: torch.full_like(p, 10.0 + epoch) for name, p in values.items()}
        validation.validate(run, split_of(OBJECTS), out=out, stop_wanted=lambda: False)
    return cast(Run, run)


def filled_with(values: dict[str, Tensor]) -> set[float]:
    return {float(value) for tensor in values.values() for value in tensor.flatten()}


def test_the_adapter_and_the_detections_are_those_of_the_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = validated(monkeypatch, tmp_path, average=False)
    assert run.position.best_epoch == BEST_EPOCH
    assert filled_with(run.best_adapter) == {BEST_EPOCH}
    assert [d.score for d in run.base_detections] == [score_of(0)]
    assert [d.score for d in run.best_detections] == [score_of(BEST_EPOCH)]
    for found in (*run.base_detections, *run.best_detections):
        assert found.rle["size"] == [SIDE, SIDE]


def test_an_averaged_run_keeps_the_average_and_trains_on_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = validated(monkeypatch, tmp_path, average=True)
    assert filled_with(run.best_adapter) == {10.0 + BEST_EPOCH}
    trained = {name: p.detach() for name, p in lora_parameters(run.model).items()}
    assert filled_with(trained) == {len(MASK_AP) - 1}


def test_as_many_images_are_predicted_together_as_a_micro_batch_has(tmp_path: Path) -> None:
    run = interrupted_run(tmp_path)
    run.history = None
    assert (run.settings.micro_batch_size, len(run.valid.images)) == (2, 4)
    grid = on_grid(run.valid, run.dataset.image_size)
    with calls_of(run.model.backbone.vision_backbone.trunk) as calls:
        validation.validate(run, grid, out=tmp_path, stop_wanted=lambda: False)
    assert len(calls) == 2
