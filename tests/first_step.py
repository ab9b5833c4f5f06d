"""The gradients of one optimiser step, saved; run alone and under torchrun by test_engine."""

import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from segtune.augment import Augmentation
from segtune.coco import read_split
from segtune.dataset import PromptedImages, training_batches
from segtune.distributed import joined
from segtune.engine import train_one_epoch
from segtune.lora import inject_lora, lora_parameters
from segtune.losses import build_loss
from segtune.model import build_model
from segtune.sampling import local_steps
from tests.batches import all_specs, randomise_lora


def main(coco: Path, out: Path, micro_batch_size: int) -> None:
    """Save the gradients of the first step on four pictures, and the summed loss."""
    losses = []
    with joined() as processes:
        model = build_model("tiny")
        inject_lora(model, all_specs(without=("text",)))
        randomise_lora(model)
        dataset = PromptedImages(read_split(coco), 96, 2, ("unicorn",), Augmentation(), seed=0)
        steps = local_steps([1.0] * len(dataset), 4, processes.rank, processes.count, 0, 0)[:1]
        train_one_epoch(
            DistributedDataParallel(model, forward_sync_buffers=False)
            if processes.count > 1
            else model,
            build_loss(model.matcher, with_masks=True),
            torch.optim.SGD(lora_parameters(model).values(), lr=0.0),
            training_batches(dataset, steps, 0, micro_batch_size, workers=0),
            processes,
            clip_norm=1e9,
            stop_wanted=lambda: False,
            after_step=lambda report: losses.append(report.loss),
        )
        if processes.is_main:
            gradients = {name: p.grad for name, p in lora_parameters(model).items()}
            torch.save({"loss": losses[0], "gradients": gradients}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
