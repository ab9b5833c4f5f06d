"""One epoch of optimizer steps, on one process and on several."""

from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.core.processes import Processes
from segtune.dataset.coco import read_split
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.model.architecture import build_model
from segtune.training.augment import Augmentation
from segtune.training.engine import Interrupted, train_one_epoch
from segtune.training.failures import StepFailed
from segtune.training.losses import build_loss
from segtune.training.prompted_images import PromptedImages, training_batches
from tests.batches import all_specs
from tests.converted import write_converted
from tests.first_steps import main
from tests.ranks import ranks

SINGLE_PROCESS = Processes(rank=0, count=1, device=torch.device("cpu"))
TOLERANCE = 1e-9  # of double precision, relative


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_converted(tmp_path_factory.mktemp("converted"))


def first_steps(coco: Path, out: Path, *, processes: int, micro_batch_size: int) -> dict[str, Any]:
    arguments = [str(coco / "train.json"), str(out), str(micro_batch_size)]
    with ranks(main, arguments, processes) as started:
        outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes, outputs
    values: dict[str, Any] = torch.load(out, weights_only=True)
    return values


def test_processes_and_accumulation_take_the_steps_of_one_big_batch(
    coco: Path, tmp_path: Path
) -> None:
    whole = first_steps(coco, tmp_path / "whole.pt", processes=1, micro_batch_size=4)
    assert len(whole["losses"]) == 3
    for name, processes, micro in (("accumulated", 1, 1), ("two", 2, 2), ("both", 2, 1)):
        other = first_steps(
            coco, tmp_path / f"{name}.pt", processes=processes, micro_batch_size=micro
        )
        assert other["losses"] == pytest.approx(whole["losses"], rel=TOLERANCE)
        for kind in ("gradients", "values"):
            for step, (one, two) in enumerate(zip(whole[kind], other[kind], strict=True)):
                for key, value in one.items():
                    assert value.norm() > 0, key
                    difference = (two[key] - value).norm() / value.norm()
                    assert difference < TOLERANCE, (name, kind, step, key, difference)


def one_epoch(coco: Path, **changes: Any) -> list[Any]:
    model = build_model("tiny")
    inject_lora(model, all_specs())
    dataset = PromptedImages(
        read_split(coco / "train.json"),
        image_size=96,
        max_negatives=2,
        extra_negatives=(),
        augmentation=Augmentation(),
        seed=0,
    )
    reports: list[Any] = []
    options: dict[str, Any] = {
        "model": model,
        "loss": build_loss(model.matcher, with_masks=True),
        "optimizer": torch.optim.AdamW(lora_parameters(model).values(), lr=1e-3),
        "steps": training_batches(
            dataset,
            [[(0, 0), (1, 0)], [(2, 0), (3, 0)], [(4, 0), (5, 0)]],
            epoch=0,
            micro_batch_size=2,
            workers=0,
        ),
        "processes": SINGLE_PROCESS,
        "clip_norm": 0.1,
        "stop_wanted": lambda: False,
        "after_step": reports.append,
    }
    train_one_epoch(**{**options, **changes})
    return reports


def test_an_epoch_reports_every_step(coco: Path) -> None:
    reports = one_epoch(coco)
    assert len(reports) == 3
    for report in reports:
        assert report.loss > 0
        assert {"loss_bbox", "loss_mask", "presence_loss"} <= report.terms.keys()
        assert report.images == 2
        assert 0 <= report.waiting_seconds <= report.seconds


def test_a_stop_takes_effect_before_the_next_step(coco: Path) -> None:
    reports: list[Any] = []
    with pytest.raises(Interrupted):
        one_epoch(coco, after_step=reports.append, stop_wanted=lambda: len(reports) == 2)
    assert len(reports) == 2


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(coco: Path) -> None:
    model = build_model("tiny")
    inject_lora(model, all_specs())
    parameters = lora_parameters(model)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        model.dot_prod_scoring.prompt_proj.bias.fill_(float("nan"))
    with pytest.raises(StepFailed, match=r"train/\d+\.png.*the loss became nan"):
        one_epoch(coco, model=model, optimizer=torch.optim.AdamW(parameters.values()))
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())


def test_the_gradient_is_clipped(coco: Path) -> None:
    model = build_model("tiny")
    inject_lora(model, all_specs())
    parameters = list(lora_parameters(model).values())
    norms = []

    def note(report: Any) -> None:
        clipped = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
        norms.append((report.gradient_norm, clipped.item()))

    one_epoch(coco, model=model, optimizer=torch.optim.SGD(parameters, lr=1e-6), after_step=note)
    for before, after in norms:
        assert before > 0.1
        assert after == pytest.approx(0.1, rel=1e-3)
