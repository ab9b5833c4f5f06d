"""The largest optimizer step first: out of memory is found in seconds, not in the night.

On a GPU alone; a process that fills the memory of a CPU is killed without being told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from segtune.core.console import log_line
from segtune.core.errors import ResourceError
from segtune.dataset.batch import Batch, collate
from segtune.dataset.coco import Image, has_masks
from segtune.lora.inject import lora_parameters
from segtune.lora.targets import component_of
from segtune.training.engine import accumulate
from segtune.training.losses import build_loss
from segtune.training.prompted_images import PromptedImages
from segtune.training.run import Run


@dataclass(frozen=True)
class Trial:
    """A way to run the largest step."""

    settings: str  # as in the config
    images: int  # per forward pass
    negatives: int  # per image
    frozen: tuple[str, ...] = ()  # components whose adapters take no part


Measure = Callable[[Trial], float | None]  # peak GB, or None when it does not fit


def require_memory(run: Run) -> None:
    """Run the largest step of the training split, and say how much memory it took.

    Raises:
        ResourceError: on all processes, when it does not fit in any of them; with the
            settings that would help and what the step takes with them.
    """
    device = run.processes.device
    if device.type != "cuda":
        return
    settings = run.settings
    trial = Trial("", settings.micro_batch_size, settings.max_negatives)
    peak = peak_gb(run, trial)
    failed = run.processes.sum([float(peak is None)])[0]
    capacity = torch.cuda.get_device_properties(device).total_memory / 1e9
    if not failed:
        if run.processes.is_main:
            log_line(f"the largest step takes {peak:.1f} GB of {capacity:.1f} GB")
        return
    advice = suggestions(trial, tuple(settings.lora), lambda other: peak_gb(run, other))
    raise ResourceError(
        f"the largest training step does not fit into {capacity:.1f} GB of GPU memory",
        fix=advice,
    )


def suggestions(failed: Trial, components: Sequence[str], measure: Measure) -> str:
    """Which settings would help, each measured by itself, then all together."""
    told = []
    for trial in _smaller(failed, components):
        peak = measure(trial)
        told.append(f"{trial.settings}: {f'{peak:.1f} GB' if peak else 'still too much'}")
    return "The step takes with " + "; ".join(told)


def _smaller(failed: Trial, components: Sequence[str]) -> list[Trial]:
    images, negatives = failed.images, failed.negatives
    trials = []
    if images > 1:
        trials.append(Trial("train.micro_batch_size: 1", 1, negatives))
    if negatives > 1:
        trials.append(Trial("train.max_negatives: 1", images, 1))
    if "vision" in components and len(components) > 1:
        without = Trial("no `vision` in train.lora", images, negatives, ("vision",))
        trials.append(without)
        if len(trials) > 1:
            trials.append(Trial("all of these", 1, min(negatives, 1), ("vision",)))
    elif len(trials) > 1:
        trials.append(Trial("all of these", 1, 1))
    return trials


def peak_gb(run: Run, trial: Trial) -> float | None:
    """The peak memory of one forward and backward pass, or None when it does not fit."""
    batch = largest_batch(run.dataset, trial.images, trial.negatives)
    parameters = lora_parameters(run.model)
    frozen = [p for name, p in parameters.items() if component_of(name) in trial.frozen]
    torch.cuda.reset_peak_memory_stats()
    run.model.train()
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        _forward_and_backward(run, batch)
    except torch.OutOfMemoryError:
        return None
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = None
        torch.cuda.empty_cache()
    return torch.cuda.max_memory_allocated() / 1e9


def _forward_and_backward(run: Run, batch: Batch) -> None:
    loss: nn.Module = build_loss(run.model.matcher, batch.masks is not None)
    boxes, prompts = float(batch.num_boxes.sum()), float(len(batch.num_boxes))
    accumulate(run.model, loss, [batch], run.processes, boxes, prompts)


def largest_batch(dataset: PromptedImages, images: int, negatives: int) -> Batch:
    """The images with the most prompts, and of these with the most objects, as one batch."""

    def size(image: Image) -> tuple[int, int]:
        absent = min(negatives, len(dataset.absent(image)))
        return len(dataset.shown(image)) + absent, len(dataset.split.annotations[image.id])

    largest = sorted(dataset.images, key=size, reverse=True)[:images]
    samples = [
        dataset.sample(image, dataset.absent(image)[:negatives], dataset.image_size)
        for image in largest
    ]
    return collate(samples, has_masks(dataset.split))
