"""A training run in one process: its parts and its state, saved and restored."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtune.core.atomic import write_json
from segtune.core.config import TrainSettings
from segtune.core.errors import ResourceError, SegtuneError
from segtune.core.processes import Processes
from segtune.dataset.coco import Split
from segtune.dataset.detections import Detections, from_record, to_record
from segtune.lora.inject import ParameterCount
from segtune.lora.layers import LoraSpec
from segtune.model.sam3_package import Sam3Image
from segtune.training.checkpoint import save_state
from segtune.training.ema import adapter_values, load_adapter_values
from segtune.training.failures import memory_advice
from segtune.training.history import History
from segtune.training.ood_negatives import NO_NOUNS, OodNegatives
from segtune.training.prompted_images import PromptedImages
from segtune.training.sampling import epoch_length


@dataclass
class Position:
    """How far a run has come."""

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
    parameters: dict[str, ParameterCount]  # by component, of the whole model
    adapted: dict[str, LoraSpec]  # by module name
    dataset: PromptedImages
    valid: Split
    workers: int  # data processes
    repeat_factors: list[float]  # how often each image is seen per epoch
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of the loss in float16; elsewhere it does nothing
    folder: Path  # of the unfinished run
    # What changes, besides the model, the optimizer and the scaler:
    average: dict[str, Tensor]  # of the adapters over the steps; empty without EMA
    random_state: dict[str, Tensor]  # before the next optimizer step
    nouns: OodNegatives = NO_NOUNS
    history: History | None = None  # only in the main process
    position: Position = field(default_factory=Position)
    best_adapter: dict[str, Tensor] = field(default_factory=dict)
    base_detections: Detections = field(default_factory=Detections)  # shown, before training
    best_detections: Detections = field(default_factory=Detections)  # shown, of the best epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return -(-epoch_length(self.repeat_factors) // self.settings.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self.steps_per_epoch * self.settings.epochs

    @property
    def validation_is_due(self) -> bool:
        """Whether the epoch that has just ended is to be validated, or the base model."""
        epoch, every = self.position.epoch, self.settings.validate_every
        due = epoch % every == 0 or epoch == self.settings.epochs
        at_end_of_epoch = self.position.step_in_epoch == 0
        return due and at_end_of_epoch and self.position.validated_epoch < epoch

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done or patience has run out."""
        patience = self.settings.patience
        impatient = 0 < patience <= self.position.validations_since_best
        return impatient or self.position.epoch == self.settings.epochs


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
            "base_detections": [to_record(found) for found in run.base_detections],
            "best_detections": [to_record(found) for found in run.best_detections],
            "optimizer": run.optimizer.state_dict(),
            "scaler": run.scaler.state_dict(),
            "random_states": random_states,
            "history_lines": run.history.lines,
        }
        save_state(run.folder, state)


def restore(run: Run, state: Mapping[str, Any]) -> None:
    """Put a run where it was when `state` was saved."""
    run.position = Position(**state["position"])
    load_adapter_values(run.model, state["adapter"])
    run.average = {n: v.to(run.processes.device) for n, v in state["average"].items()}
    run.best_adapter = state["best_adapter"]
    run.base_detections = Detections(from_record(record) for record in state["base_detections"])
    run.best_detections = Detections(from_record(record) for record in state["best_detections"])
    run.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:  # empty where a GPU did not need it
        run.scaler.load_state_dict(state["scaler"])
    if run.processes.rank < len(state["random_states"]):
        set_random_state(state["random_states"][run.processes.rank])
    run.random_state = random_state()


def save_failure(run: Run, error: SegtuneError) -> SegtuneError:
    """Save the state before the failed step or validation, so that the same command repeats it.

    Returns:
        The error to raise, which says where the run stands.
    """
    save(run)
    path, position = run.folder / "failure.json", run.position
    validating = run.validation_is_due
    step, epoch = position.step + (not validating), position.epoch + (not validating)
    if run.processes.is_main:
        failed = {"step": step, "epoch": epoch, "file": error.file, "images": error.record}
        write_json(path, {**failed, "problem": error.problem})
    place = f"validation after epoch {epoch}" if validating else f"step {step}"
    advice = [error.fix, _advice(run, error), f"The same command repeats this; see {path}"]
    return type(error)(
        error.problem,
        file=error.file,
        record=", ".join(part for part in (place, error.record) if part),
        fix=". ".join(part for part in advice if part),
    )


def _advice(run: Run, error: SegtuneError) -> str:
    if not isinstance(error, ResourceError):
        return ""
    if run.validation_is_due:
        images = run.settings.micro_batch_size
        fewer = f"train.micro_batch_size (now {images}), which continues this run, or "
        lower = f"{fewer if images > 1 else ''}image_size, which starts a new run"
        return f"Validation takes less memory with a lower {lower}"
    return memory_advice(run.settings)


def random_state() -> dict[str, Tensor]:
    """The state of this process's random generators."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Set this process's random generators."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
