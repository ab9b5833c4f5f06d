"""The largest optimizer step first: running out of memory shows in seconds, not at night.

It also shows how much memory is left for activations, which need not be computed again then. Only
on a GPU; a process that fills the memory of a CPU is killed without an error to catch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from segtune.core.config import CHECKPOINTED, Checkpointed, TrainSettings
from segtune.core.console import log_line
from segtune.core.errors import ResourceError, listed
from segtune.core.processes import Processes
from segtune.dataset.batch import Batch, collate
from segtune.dataset.coco import Image, has_masks
from segtune.lora.inject import lora_parameters
from segtune.lora.targets import component_of
from segtune.model.checkpointing import set_checkpointing
from segtune.model.sam3_package import Sam3Image
from segtune.training.engine import accumulate
from segtune.training.losses import build_loss
from segtune.training.prompted_images import PromptedImages

# Of the free memory. The allocator cannot use all of it, and other steps fragment it differently.
USED_FRACTION = 0.85


@dataclass(frozen=True)
class Trial:
    """A way to run the largest step."""

    images: int  # per forward pass
    negatives: int  # per image
    masks: int  # whose loss is computed at once
    change: str = ""  # of the settings, as one writes it in the config
    frozen: tuple[str, ...] = ()  # components whose adapters are not trained
    checkpointed: tuple[Checkpointed, ...] = CHECKPOINTED


Measure = Callable[[Trial], float | None]  # peak GB, or None when it does not fit


def require_memory(
    model: Sam3Image, dataset: PromptedImages, *, settings: TrainSettings, processes: Processes
) -> None:
    """Run the largest step of the training split, and report how much memory it takes.

    Where the settings leave it open, the model then checkpoints as few components as fit; without
    a GPU, all.

    Raises:
        ResourceError: on all processes, when it does not fit in any of them; with the
            settings that would help and what the step takes with them.
    """
    chosen = settings.activation_checkpointing
    trial = Trial(
        images=settings.micro_batch_size,
        negatives=settings.max_negatives,
        masks=settings.masks_per_chunk,
        checkpointed=CHECKPOINTED if chosen == "auto" else chosen,
    )
    if processes.device.type != "cuda":
        set_checkpointing(model, trial.checkpointed)
        return

    def measure(other: Trial) -> float | None:
        peaks = processes.gather(peak_gb(model, dataset, other, processes=processes))
        found = [peak for peak in peaks if peak is not None]
        return max(found) if len(found) == len(peaks) else None

    capacity = torch.cuda.get_device_properties(processes.device).total_memory / 1e9
    peak = measure(trial)
    if peak is None:
        raise ResourceError(
            f"the largest training step does not fit into {capacity:.1f} GB of GPU memory",
            fix=suggestions(trial, tuple(settings.lora), measure),
        )
    if chosen == "auto":
        budget = USED_FRACTION * min(processes.gather(_free_gb()))
        trial, peak = fewest_checkpoints(trial, peak, measure=measure, budget_gb=budget)
        set_checkpointing(model, trial.checkpointed)
    if processes.is_main:
        log_line(
            f"the largest step takes {peak:.1f} GB of {capacity:.1f} GB of GPU memory; "
            f"activations computed again: {listed(trial.checkpointed, len(CHECKPOINTED)) or 'none'}"
        )


def fewest_checkpoints(
    fits: Trial, fits_gb: float, *, measure: Measure, budget_gb: float
) -> tuple[Trial, float]:
    """The first trial within a budget, from no checkpointed component to those of one that fits.

    Args:
        fits: a trial that fits.
        fits_gb: its peak memory.
        measure: what other trials take.
        budget_gb: for these.

    Returns:
        The trial and its peak memory.
    """
    for count in range(len(fits.checkpointed)):
        trial = replace(fits, checkpointed=fits.checkpointed[:count])
        peak = measure(trial)
        if peak is not None and peak <= budget_gb:
            return trial, peak
    return fits, fits_gb


def _free_gb() -> float:
    """What this process has of its GPU and what is free."""
    return (torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()) / 1e9


def suggestions(failed: Trial, components: Sequence[str], measure: Measure) -> str:
    """The settings that would help, each measured individually, then all together."""
    found = []
    for trial in _smaller(failed, components):
        peak = measure(trial)
        found.append(f"{trial.change} ({f'{peak:.1f} GB' if peak else 'still too much'})")
    return "Choose settings that fit; peak memory with each change: " + "; ".join(found)


def _smaller(failed: Trial, components: Sequence[str]) -> list[Trial]:
    trials = []
    if failed.checkpointed != CHECKPOINTED:
        change = "train.activation_checkpointing: auto"
        trials.append(replace(failed, checkpointed=CHECKPOINTED, change=change))
    if failed.images > 1:
        trials.append(replace(failed, images=1, change="train.micro_batch_size: 1"))
    if failed.masks > 1:
        trials.append(replace(failed, masks=1, change="train.masks_per_chunk: 1"))
    if failed.negatives > 1:
        trials.append(replace(failed, negatives=1, change="train.max_negatives: 1"))
    frozen = ("vision",) if "vision" in components and len(components) > 1 else ()
    if frozen:
        trials.append(replace(failed, frozen=frozen, change="no `vision` in train.lora"))
    if len(trials) > 1:
        negatives = min(failed.negatives, 1)
        trials.append(
            Trial(images=1, negatives=negatives, masks=1, frozen=frozen, change="all of these")
        )
    return trials


def peak_gb(
    model: Sam3Image, dataset: PromptedImages, trial: Trial, *, processes: Processes
) -> float | None:
    """The peak memory of one forward and backward pass, or None when it does not fit."""
    batch = largest_batch(dataset, images=trial.images, negatives=trial.negatives)
    parameters = lora_parameters(model)
    frozen = [p for name, p in parameters.items() if component_of(name) in trial.frozen]
    torch.cuda.reset_peak_memory_stats()
    model.train()
    set_checkpointing(model, trial.checkpointed)
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        _forward_and_backward(model, batch, trial, processes)
    except torch.OutOfMemoryError:
        return None
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = None
        torch.cuda.empty_cache()
    return torch.cuda.max_memory_allocated() / 1e9


def _forward_and_backward(
    model: Sam3Image, batch: Batch, trial: Trial, processes: Processes
) -> None:
    accumulate(
        model,
        build_loss(model.matcher, batch.masks is not None, trial.masks),
        batch,
        device=processes.device,
        step_boxes=float(batch.num_boxes.sum()),
        step_prompts=float(len(batch.num_boxes)),
    )


def largest_batch(dataset: PromptedImages, *, images: int, negatives: int) -> Batch:
    """The images that take the most memory, as one batch."""
    largest = sorted(
        dataset.images, key=lambda image: _cost(dataset, image, negatives), reverse=True
    )
    samples = [
        dataset.largest_sample(image, dataset.negatives(image)[:negatives])
        for image in largest[:images]
    ]
    return collate(samples, has_masks(dataset.split))


def _cost(dataset: PromptedImages, image: Image, negatives: int) -> float:
    """The memory of an image relative to a negative prompt's, of about 0.3 GB at full size.

    A prompt that shows something also decodes masks, another 0.6 GB; an object adds 4 MB. Counted
    by benchmarks/memory.py.
    """
    shown = len(dataset.present(image))
    absent = min(negatives, len(dataset.negatives(image)))
    return absent + 3 * shown + len(dataset.split.annotations[image.id]) / 100
