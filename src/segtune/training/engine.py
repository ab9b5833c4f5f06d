"""One epoch of optimizer steps, on one process or many."""

import math
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from segtune.core.processes import Processes
from segtune.dataset.batch import Batch
from segtune.model.forward import grounding_outputs, loss_targets, mixed_precision
from segtune.model.sam3_package import Sam3Image
from segtune.training.losses import not_finite, prompted_loss


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


def train_one_epoch(
    model: Sam3Image | DistributedDataParallel,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: Iterable[Sequence[Batch]],
    processes: Processes,
    clip_norm: float,
    stop_wanted: Callable[[], bool],
    after_step: Callable[[StepReport], None],
) -> None:
    """Run one optimizer step per item of `steps`.

    Args:
        model: wrapped in DistributedDataParallel when there are several processes.
        loss: from `build_loss`.
        optimizer: over the trainable parameters.
        steps: per step, the micro-batches of this process.
        processes: this process among the others.
        clip_norm: the gradient is clipped to this L2 norm.
        stop_wanted: called before each step; true in any process stops all of them.
        after_step: called after each step.

    Raises:
        Interrupted: when any process wanted to stop; the last step is complete.
        TrainingError: on all processes, when a loss or gradient is not finite.
    """
    model.train()
    began = time.perf_counter()
    for batches in steps:
        waited = time.perf_counter() - began
        boxes = sum(int(batch.num_boxes.sum()) for batch in batches)
        prompts = sum(len(batch.num_boxes) for batch in batches)
        step_boxes, step_prompts, stops = processes.sum([boxes, prompts, stop_wanted()])
        if stops:
            raise Interrupted
        optimizer.zero_grad()
        total, terms = accumulate(
            model,
            loss,
            batches,
            processes=processes,
            step_boxes=step_boxes,
            step_prompts=step_prompts,
        )
        norm = nn.utils.clip_grad_norm_(_trainable(optimizer), clip_norm)
        names = [name for batch in batches for name in batch.names]
        summed = processes.sum([total, *terms.values()])
        # The sums are the same everywhere, so all processes take the same branch.
        if not math.isfinite(summed[0] + float(norm)):
            gathered = processes.gather(names)
            raise not_finite(summed[0], float(norm), [n for names in gathered for n in names])
        optimizer.step()
        report = StepReport(
            loss=summed[0],
            terms=dict(zip(terms, summed[1:], strict=True)),
            gradient_norm=float(norm),
            images=len(names) * processes.count,
            seconds=time.perf_counter() - began,
            waiting_seconds=waited,
            peak_memory_gb=_peak_memory_gb(processes.device),
        )
        after_step(report)
        began = time.perf_counter()


def accumulate(
    model: Sam3Image | DistributedDataParallel,
    loss: nn.Module,
    batches: Sequence[Batch],
    *,
    processes: Processes,
    step_boxes: float,
    step_prompts: float,
) -> tuple[float, dict[str, float]]:
    """Accumulate the gradients of the whole step's loss in the parameters.

    Args:
        model: as in `train_one_epoch`.
        loss: from `build_loss`.
        batches: the micro-batches of this process.
        processes: this process among the others.
        step_boxes: objects in the whole step, over all processes.
        step_prompts: prompts in the whole step, over all processes.

    Returns:
        The loss and its terms, as far as they come from this process's batches.
    """
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    total, terms = 0.0, dict[str, float]()
    for index, batch in enumerate(batches):
        moved = batch.to(processes.device)
        with _communicating(model, last=index == len(batches) - 1):
            with mixed_precision(processes.device):
                outputs = grounding_outputs(model, moved)
            targets = loss_targets(plain, moved)
            part, parts = prompted_loss(
                loss, outputs, targets, step_boxes=step_boxes, step_prompts=step_prompts
            )
            # DDP averages gradients over processes; the parts are meant to be summed.
            (part * processes.count).backward()
        total += part.item()
        terms = {name: terms.get(name, 0.0) + float(term) for name, term in parts.items()}
    return total, terms


def _communicating(
    model: Sam3Image | DistributedDataParallel, last: bool
) -> AbstractContextManager[Any]:
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def _trainable(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _peak_memory_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
