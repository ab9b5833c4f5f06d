"""Three optimizer steps in double precision, saved; in a process of its own or in several."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch

from segtune.core.processes import process_group
from segtune.dataset.coco import read_split
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.model.architecture import build_model
from segtune.training.augment import Augmentation
from segtune.training.engine import train_one_epoch
from segtune.training.losses import build_loss
from segtune.training.prompted_images import PromptedImages, training_batches
from segtune.training.sampling import local_steps
from tests.batches import all_specs, randomize_lora

STEPS = 3


def main(arguments: list[str]) -> None:
    """Save the losses, and after each step the gradients, not clipped, and the adapters' values.

    Args:
        arguments: the training split, the file to write, and the size of a micro-batch.
    """
    coco, out, micro_batch_size = Path(arguments[0]), Path(arguments[1]), int(arguments[2])
    losses, gradients, values = [], [], []
    with process_group() as processes, double_precision():
        model = build_model("tiny").double()
        inject_lora(model, all_specs(without=("text",)))
        randomize_lora(model)
        parameters = lora_parameters(model)
        dataset = PromptedImages(
            read_split(coco),
            image_size=96,
            max_negatives=2,
            extra_negatives=("unicorn",),
            augmentation=Augmentation(),
            seed=0,
        )
        steps = [
            step
            for epoch in range(STEPS)
            for step in local_steps(
                [1.0] * len(dataset),
                batch_size=4,
                rank=processes.rank,
                processes=processes.count,
                seed=0,
                epoch=epoch,
            )
        ][:STEPS]

        def after_step(report: object) -> None:
            losses.append(report.loss)  # type: ignore[attr-defined]
            gradients.append({name: p.grad.clone() for name, p in parameters.items()})  # type: ignore[union-attr]
            values.append({name: p.detach().clone() for name, p in parameters.items()})

        train_one_epoch(
            model,
            build_loss(model.matcher, with_masks=True),
            torch.optim.AdamW(parameters.values(), lr=1e-3),
            steps=training_batches(
                dataset, steps, epoch=0, micro_batch_size=micro_batch_size, workers=0
            ),
            processes=processes,
            clip_norm=math.inf,  # clipping would hide a common factor
            stop_wanted=lambda: False,
            after_step=after_step,
        )
    if processes.is_main:
        print(f"of {processes.count} processes")
        torch.save({"losses": losses, "gradients": gradients, "values": values}, out)


@contextmanager
def double_precision() -> Iterator[None]:
    """Make double precision of what the package explicitly calls single precision."""
    torch.set_default_dtype(torch.float64)
    names = {"float": torch.float64, "float32": torch.float64}
    with patch.multiple(torch, **names), patch.object(torch.Tensor, "float", torch.Tensor.double):
        yield
    torch.set_default_dtype(torch.float32)
