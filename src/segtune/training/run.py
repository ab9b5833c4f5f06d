"""A training run in one process: what it consists of, and how it is saved and restored."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtune.core.config import TrainSettings
from segtune.core.processes import Processes
from segtune.dataset.coco import Split
from segtune.lora.inject import lora_parameters
from segtune.lora.layers import LoraSpec
from segtune.model.sam3_package import Sam3Image
from segtune.training.checkpoint import save_state
from segtune.training.history import History
from segtune.training.optimizer import learning_rate_factor
from segtune.training.prompted_images import PromptedImages
from segtune.training.sampling import epoch_length, repeat_factors


@dataclass
class Position:
    """Where a run stands."""

    step: int = 0  # optimizer steps done
    epoch: int = 0  # epochs done
    step_in_epoch: int = 0
    validated_epoch: int = -1  # 0 is the base model
    base_score: float = 0.0
    best_score: float = -1.0
    best_epoch: int = 0
    validations_since_best: int = 0
    seconds: float = 0.0  # of all optimizer steps


@dataclass
class Run:
    """A training run in this process."""

    settings: TrainSettings
    processes: Processes
    model: Sam3Image
    adapted: dict[str, LoraSpec]
    dataset: PromptedImages
    valid: Split
    workers: int
    optimizer: torch.optim.Optimizer
    folder: Path  # of the unfinished run
    history: History | None  # of the main process
    position: Position
    factors: list[float]  # how often each image is seen per epoch
    average: dict[str, Tensor]  # of the adapters over the steps; empty without averaging
    best_adapter: dict[str, Tensor]
    random_state: dict[str, Tensor]  # before the next optimizer step

    @property
    def steps_per_epoch(self) -> int:
        return -(-epoch_length(self.factors) // self.settings.batch_size)

    @property
    def is_over(self) -> bool:
        patience = self.settings.patience
        impatient = 0 < patience <= self.position.validations_since_best
        return impatient or self.position.epoch == self.settings.epochs


def dataset_repeat_factors(dataset: PromptedImages, settings: TrainSettings) -> list[float]:
    """How often each image is seen per epoch."""
    classes = [dataset.shown(image) for image in dataset.images]
    return repeat_factors(classes, settings.repeat_factor_threshold)


def set_learning_rates(run: Run) -> None:
    """What the schedule says for the next optimizer step."""
    total = run.steps_per_epoch * run.settings.epochs
    factor = learning_rate_factor(
        run.position.step, total, run.settings.warmup_steps, run.settings.schedule
    )
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def update_ema(run: Run) -> None:
    """Move the average towards the adapters, after an optimizer step.

    The decay grows from 0.1 to `ema_decay`, so that the first steps do not linger.
    """
    decay = min(run.settings.ema_decay, (1 + run.position.step) / (10 + run.position.step))
    with torch.no_grad():
        parameters = lora_parameters(run.model)
        for name, average in run.average.items():
            average.lerp_(parameters[name], 1 - decay)


@contextmanager
def ema_weights(run: Run) -> Iterator[None]:
    """The averaged adapters in the model, the trained ones again afterwards."""
    if not run.average:
        yield
        return
    trained = adapter_values(run.model)
    load_adapter_values(run.model, run.average)
    try:
        yield
    finally:
        load_adapter_values(run.model, trained)


def adapter_values(model: Sam3Image) -> dict[str, Tensor]:
    """Copies of the adapters' parameters, on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in lora_parameters(model).items()}


def load_adapter_values(model: Sam3Image, values: Mapping[str, Tensor]) -> None:
    """Set the adapters' parameters, in place."""
    with torch.no_grad():
        for name, parameter in lora_parameters(model).items():
            parameter.copy_(values[name])


def save(run: Run) -> None:
    """Save everything that the next optimizer step depends on; all processes take part."""
    random_states = run.processes.gather(run.random_state)
    if run.history:
        run.history.sync()
        state = {
            "position": asdict(run.position),
            "adapter": adapter_values(run.model),
            "average": {name: value.cpu() for name, value in run.average.items()},
            "best_adapter": run.best_adapter,
            "optimizer": run.optimizer.state_dict(),
            "random_states": random_states,
            "history_lines": run.history.lines,
        }
        save_state(run.folder, state)


def restore(run: Run, state: Mapping[str, Any]) -> None:
    """Put a run where it was when `state` was saved."""
    load_adapter_values(run.model, state["adapter"])
    run.average = {n: v.to(run.processes.device) for n, v in state["average"].items()}
    run.best_adapter = state["best_adapter"]
    run.optimizer.load_state_dict(state["optimizer"])
    if run.processes.rank < len(state["random_states"]):
        set_random_state(state["random_states"][run.processes.rank])
    run.random_state = random_state()


def random_state() -> dict[str, Tensor]:
    """The state of this process's generators."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Set this process's generators."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
