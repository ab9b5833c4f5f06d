"""Training in float16, as on a GPU without bfloat16, on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.core.errors import TrainingError
from segtune.core.processes import Processes, process_group
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.lora.targets import component_of, lora_specs
from segtune.model import precision
from segtune.model.architecture import build_model
from segtune.training.checkpoint import load_state
from segtune.training.engine import accumulate, train_one_epoch
from segtune.training.failures import StepFailed
from segtune.training.losses import build_loss
from segtune.training.restoring import restore_checked
from segtune.training.run import Run, save
from segtune.training.setup import prepare_run
from tests.batches import adapted_tiny, random_batch, randomize_lora
from tests.converted import write_converted
from tests.train_runs import run_inputs, train_settings

CPU = torch.device("cpu")


@pytest.fixture
def in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "autocast_dtype", lambda device: torch.float16)


def gradients(scaler: torch.amp.GradScaler | None) -> dict[str, Tensor]:
    """Of each component, as one vector."""
    model, _ = adapted_tiny()
    accumulate(
        model.train(),
        build_loss(model.matcher, with_masks=True),
        random_batch(((2, 0), (1,))),
        device=CPU,
        step_boxes=3.0,
        step_prompts=3.0,
        scaler=scaler,
    )
    found: dict[str, list[Tensor]] = {}
    for name, parameter in lora_parameters(model).items():
        assert parameter.grad is not None
        found.setdefault(component_of(name), []).append(parameter.grad.flatten())
    return {component: torch.cat(parts).double() for component, parts in found.items()}


def test_gradients_are_close_to_those_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gradients(None)
    monkeypatch.setattr(precision, "autocast_dtype", lambda device: torch.float16)
    found = gradients(torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert found.keys() == expected.keys()
    for component, gradient in found.items():
        assert F.cosine_similarity(gradient, expected[component], dim=0) > 0.99, component
        assert gradient.norm() / 1024 == pytest.approx(float(expected[component].norm()), rel=0.02)


def trained(scaler: torch.amp.GradScaler) -> tuple[dict[str, Tensor], list[Any]]:
    """The adapters after two steps, and the steps' reports."""
    model = build_model("tiny")
    inject_lora(model, lora_specs(train_settings().lora))  # with dropout
    randomize_lora(model)
    parameters = lora_parameters(model)
    reports: list[Any] = []
    torch.manual_seed(0)
    train_one_epoch(
        model,
        build_loss(model.matcher, with_masks=True),
        torch.optim.AdamW(parameters.values(), lr=1e-3),
        steps=[[random_batch(((1,),), seed)] for seed in range(2)],
        processes=Processes(rank=0, count=1, device=CPU),
        clip_norm=0.1,
        stop_wanted=lambda: False,
        after_step=reports.append,
        scaler=scaler,
    )
    return {name: p.detach().clone() for name, p in parameters.items()}, reports


def too_high(backoff_factor: float) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=backoff_factor)


@pytest.mark.usefixtures("in_float16")
def test_a_gradient_that_overflows_is_computed_again_with_a_lower_scale() -> None:
    scaler = too_high(2.0**-34)
    adapters, reports = trained(scaler)
    assert scaler.get_scale() == 2.0**6
    expected, other = trained(torch.amp.GradScaler("cpu", init_scale=2.0**6))
    assert [report.loss for report in reports] == [report.loss for report in other]
    assert len(reports) == 2
    assert all(torch.equal(adapters[name], value) for name, value in expected.items())


@pytest.mark.usefixtures("in_float16")
def test_a_gradient_that_overflows_at_any_scale_is_an_error() -> None:
    scaler = too_high(2.0**-41)
    with pytest.raises(StepFailed, match=r"^image 0.0: the gradient norm became (nan|inf)"):
        trained(scaler)
    assert scaler.get_scale() == 2.0**40  # so that the same command repeats the step


def prepared(coco: Path, folder: Path) -> Run:
    inputs = run_inputs(coco, folder)
    settings = train_settings()
    with process_group() as processes:
        return prepare_run(inputs, settings, processes=processes, folder=folder)


def scaled(scaler: torch.amp.GradScaler, **changes: Any) -> dict[str, Any]:
    return {**scaler.state_dict(), "scale": 512.0, "_growth_tracker": 7, **changes}


@pytest.mark.usefixtures("in_float16")
def test_a_resumed_run_has_the_scale_of_the_interrupted_one(tmp_path: Path) -> None:
    coco = write_converted(tmp_path)
    (tmp_path / "run").mkdir()
    run = prepared(coco, tmp_path / "run")
    run.scaler.load_state_dict(scaled(run.scaler))
    save(run)
    resumed = prepared(coco, tmp_path / "run")
    assert resumed.scaler.state_dict() == scaled(run.scaler)
    state, _ = load_state(run.folder)
    assert state
    for wrong in (
        None,
        {"scale": 512.0},
        scaled(run.scaler, scale=float("inf")),
        scaled(run.scaler, scale=0.5),
        scaled(run.scaler, growth_factor=3.0),
        scaled(run.scaler, _growth_tracker=-1),
    ):
        with pytest.raises(TrainingError, match=r"not the state of this training run \(scaler"):
            restore_checked(resumed, {**state, "scaler": wrong}, run.folder)
    restore_checked(resumed, {**state, "scaler": {}}, run.folder)  # of a run in bfloat16
    for each in (run, resumed):
        assert each.history
        each.history.close()
