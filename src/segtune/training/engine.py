"""One epoch of optimizer steps, on one process or many.

Every process runs the forward and backward passes of its own micro-batches, and the gradients are
summed once per step. So no process waits for another inside of a backward pass, and one that fails
can tell the others.
"""

import math
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from segtune.core.errors import SegtuneError
from segtune.core.processes import Processes
from segtune.dataset.batch import Batch
from segtune.model.forward import grounding_outputs, loss_targets
from segtune.model.precision import loss_scaler, mixed_precision
from segtune.model.sam3_package import Sam3Image
from segtune.training.failures import StepFailed, agreed, attempt, raise_together
from segtune.training.losses import REPORTED, not_finite, prompted_loss
from segtune.training.optimizer import trainable, undo_of
from segtune.training.run import random_state, set_random_state


class Interrupted(Exception):
    """All processes agreed to stop before the next optimizer step."""


@dataclass(frozen=True)
class StepReport:
    """The outcome of one optimizer step, summed over all processes."""

    loss: float
    terms: Mapping[str, float]  # unweighted, of the last decoder layer
    gradient_norm: float  # before clipping
    images: int
    seconds: float
    waiting_seconds: float  # of `seconds`, for data
    peak_memory_gb: float  # of this process so far; of its GPU if it has one


@dataclass(frozen=True)
class _Trained:
    """What an optimizer step works on."""

    model: Sam3Image
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    processes: Processes
    clip_norm: float


@dataclass(frozen=True)
class _Step:
    """An optimizer step as this process sees it."""

    batches: Sequence[Batch]  # micro-batches of this process
    boxes: float  # objects in the whole step, over all processes
    prompts: float  # in the whole step, over all processes

    @property
    def names(self) -> list[str]:
        return [name for batch in self.batches for name in batch.names]


def train_one_epoch(
    model: Sam3Image,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: Iterable[Sequence[Batch]],
    processes: Processes,
    clip_norm: float,
    stop_wanted: Callable[[], bool],
    after_step: Callable[[StepReport], None],
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Run one optimizer step per item of `steps`.

    Args:
        model: adapted; the same in every process.
        loss: from `build_loss`.
        optimizer: over the trainable parameters.
        steps: per step, the micro-batches of this process.
        processes: this process among the others.
        clip_norm: the gradient is clipped to this L2 norm.
        stop_wanted: called before each step; true in any process stops all of them.
        after_step: called after each step.
        scaler: of the loss, where training is in float16; a new one by default.

    Raises:
        Interrupted: when any process wanted to stop; the last step is complete.
        StepFailed: on all processes, when a loss or gradient is not finite, or memory or data
            failed in any of them. Everything is as after the last step, without gradients.
    """
    model.train()
    scaler = scaler or loss_scaler(processes.device)
    trained = _Trained(model, loss, optimizer, scaler, processes=processes, clip_norm=clip_norm)
    source = iter(steps)
    while True:
        began = time.perf_counter()
        batches, failure = attempt(lambda: next(source, None))
        if batches is None and failure is None:
            return
        waited = time.perf_counter() - began
        step = _agreed_step(batches or (), failure, processes, stop_wanted=stop_wanted())
        total, terms, norm = _take(step, trained)
        report = StepReport(
            loss=total,
            terms=terms,
            gradient_norm=norm,
            images=len(step.names) * processes.count,
            seconds=time.perf_counter() - began,
            waiting_seconds=waited,
            peak_memory_gb=_peak_memory_gb(processes.device),
        )
        after_step(report)


def _agreed_step(
    batches: Sequence[Batch],
    failure: SegtuneError | None,
    processes: Processes,
    *,
    stop_wanted: bool,
) -> _Step:
    """The next step, counted over all processes, unless one of them must or wants to stop."""
    boxes = sum(int(batch.num_boxes.sum()) for batch in batches)
    prompts = sum(len(batch.num_boxes) for batch in batches)
    step_boxes, step_prompts, stops, failures = processes.sum(
        [boxes, prompts, stop_wanted, failure is not None]
    )
    if stops:
        raise Interrupted
    if failures:
        raise_together(failure, processes)
    return _Step(batches, boxes=step_boxes, prompts=step_prompts)


def _take(step: _Step, trained: _Trained) -> tuple[float, dict[str, float], float]:
    """Take the step, all of it or none: the loss, its terms, and the norm of the gradient.

    Where the gradient overflows float16, it is computed again with a lower scale: skipping the
    step, as is usual, would lose its images.
    """
    scale, random = trained.scaler.state_dict(), random_state()
    try:
        while True:
            total, terms = _summed_gradients(step, trained)
            norm = _update(step, trained)
            if math.isfinite(norm):
                trained.scaler.update()
                return total, terms, norm
            if not _lowered(trained.scaler):
                raise _not_finite(step, trained, loss=total, norm=norm)
            set_random_state(random)
    except StepFailed:
        trained.optimizer.zero_grad()
        trained.scaler.load_state_dict(scale)
        raise


def _summed_gradients(step: _Step, trained: _Trained) -> tuple[float, dict[str, float]]:
    """The loss and its terms over all processes; their gradients are in the parameters."""
    trained.optimizer.zero_grad()
    total, terms, failure = _own_gradients(step, trained)
    values = [terms.get(name, 0.0) for name in REPORTED]
    failures, total, *values = trained.processes.sum([failure is not None, total, *values])
    if failures:
        raise_together(failure, trained.processes)
    if not math.isfinite(total):
        raise _not_finite(step, trained, loss=total, norm=math.nan)
    trained.processes.sum_gradients(trainable(trained.optimizer))
    summed = dict(zip(REPORTED, values, strict=True))
    return total, {name: summed[name] for name in terms}


def _own_gradients(
    step: _Step, trained: _Trained
) -> tuple[float, dict[str, float], SegtuneError | None]:
    """This process's part of the loss and its terms, or why it has none."""
    total, terms = 0.0, dict[str, float]()
    for batch in step.batches:
        work = partial(
            accumulate,
            trained.model,
            trained.loss,
            batch,
            device=trained.processes.device,
            step_boxes=step.boxes,
            step_prompts=step.prompts,
            scaler=trained.scaler,
        )
        found, failure = attempt(work, batch.names)
        if found is None:
            return total, terms, failure
        total += found[0]
        terms = {name: terms.get(name, 0.0) + term for name, term in found[1].items()}
    return total, terms, None


def accumulate(
    model: Sam3Image,
    loss: nn.Module,
    batch: Batch,
    *,
    device: torch.device,
    step_boxes: float,
    step_prompts: float,
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[float, dict[str, float]]:
    """Add the gradients of a micro-batch's part of the step's loss to those of the parameters.

    Args:
        model: in training mode, on `device`.
        loss: from `build_loss`.
        batch: a micro-batch.
        device: of the model.
        step_boxes: objects in the whole step, over all processes.
        step_prompts: prompts in the whole step, over all processes.
        scaler: multiplies the gradients; by default, nothing does.

    Returns:
        The loss and its terms, as far as they come from this micro-batch.
    """
    moved = batch.to(device)
    with mixed_precision(device):
        outputs = grounding_outputs(model, moved)
    targets = loss_targets(model, moved)
    part, terms = prompted_loss(
        loss, outputs, targets, step_boxes=step_boxes, step_prompts=step_prompts
    )
    (scaler.scale(part) if scaler else part).backward()
    # Moved at once: a GPU would be waited for at every number.
    total, *values = torch.stack([part.detach(), *terms.values()]).tolist()
    return total, dict(zip(terms, values, strict=True))


def _update(step: _Step, trained: _Trained) -> float:
    """Clip the gradient and take the step in all processes, or in none; the norm before.

    There is no step where the gradient is not finite.
    """
    optimizer, processes = trained.optimizer, trained.processes
    undo = agreed(attempt(partial(undo_of, optimizer), step.names), processes)
    try:
        return agreed(attempt(partial(_clip_and_step, trained), step.names), processes)
    except StepFailed:
        undo()
        raise


def _clip_and_step(trained: _Trained) -> float:
    trained.scaler.unscale_(trained.optimizer)
    parameters = trainable(trained.optimizer)
    norm = float(nn.utils.clip_grad_norm_(parameters, trained.clip_norm))
    if math.isfinite(norm):
        trained.optimizer.step()
    return norm


def _lowered(scaler: torch.amp.GradScaler) -> bool:
    """Whether the scale was too high and has been lowered; below 1, it was not the scale."""
    before = scaler.get_scale()
    scaler.update()
    return 1 <= scaler.get_scale() < before


def _not_finite(step: _Step, trained: _Trained, *, loss: float, norm: float) -> StepFailed:
    # The sums are the same everywhere, so all processes come here together.
    names = [name for names in trained.processes.gather(step.names) for name in names]
    return StepFailed(not_finite(loss, norm, names))


def _peak_memory_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
