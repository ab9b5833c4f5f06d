"""The training loop: epochs of optimizer steps, validations, and checkpoints on the way."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segtune.core.console import Advance, progress
from segtune.dataset.batch import Batch
from segtune.dataset.coco import has_masks
from segtune.dataset.mask_grid import on_grid
from segtune.lora.inject import lora_parameters
from segtune.training.ema import update_ema
from segtune.training.engine import StepReport, train_one_epoch
from segtune.training.losses import build_loss
from segtune.training.optimizer import set_learning_rates
from segtune.training.prompted_images import training_batches
from segtune.training.run import Run, random_state, save
from segtune.training.sampling import local_steps
from segtune.training.validation import validate


def train(run: Run, *, out: Path, stop_wanted: Callable[[], bool]) -> None:
    """Train until all epochs are done or patience has run out.

    Args:
        run: new or restored; at the end, its `best_adapter` is the result.
        out: folder of the results, for the contact sheets of validations.
        stop_wanted: true in any process stops all of them.

    Raises:
        Interrupted: when any process wanted to stop.
        StepFailed: when a loss or gradient is not finite, or memory or data failed in any process.
    """
    grid = on_grid(run.valid, run.dataset.image_size)
    loss = build_loss(run.model.matcher, has_masks(run.dataset.split), run.settings.masks_per_chunk)
    while True:
        if run.validation_is_due:
            validate(run, grid, out=out, stop_wanted=stop_wanted)
            save(run)
        if run.is_over:
            return
        _train_epoch(run, loss, stop_wanted=stop_wanted)
        run.position.epoch += 1
        run.position.step_in_epoch = 0
        save(run)


def _train_epoch(run: Run, loss: nn.Module, *, stop_wanted: Callable[[], bool]) -> None:
    """Take the optimizer steps that are left of the epoch."""
    with progress(
        f"epoch {run.position.epoch + 1}/{run.settings.epochs} step",
        run.steps_per_epoch,
        run.position.step_in_epoch,
        visible=run.processes.is_main,
    ) as advance:
        train_one_epoch(
            run.model,
            loss,
            run.optimizer,
            steps=_remaining_steps(run),
            processes=run.processes,
            clip_norm=run.settings.clip_norm,
            stop_wanted=stop_wanted,
            after_step=lambda report: _after_step(run, report, advance),
            scaler=run.scaler,
        )


def _remaining_steps(run: Run) -> Iterator[list[Batch]]:
    steps = local_steps(
        run.repeat_factors,
        batch_size=run.settings.batch_size,
        rank=run.processes.rank,
        processes=run.processes.count,
        seed=run.settings.seed,
        epoch=run.position.epoch,
    )
    return training_batches(
        run.dataset,
        steps[run.position.step_in_epoch :],
        epoch=run.position.epoch,
        micro_batch_size=run.settings.micro_batch_size,
        workers=run.workers,
    )


def _after_step(run: Run, report: StepReport, advance: Advance) -> None:
    """Advance the state of the run, log the step, and save a checkpoint when one is due."""
    position, settings = run.position, run.settings
    position.step += 1
    position.step_in_epoch += 1
    position.seconds += report.seconds
    update_ema(
        run.average, lora_parameters(run.model), decay=settings.ema_decay, step=position.step
    )
    if run.history:
        record = _step_record(report, run.optimizer, epoch=position.epoch + 1)
        run.history.add("train", position.step, record)
    advance(note=f"loss {report.loss:.3f}  {report.images / report.seconds:.1f} images/s")
    set_learning_rates(
        run.optimizer,
        step=position.step,
        total_steps=run.total_steps,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
    )
    run.random_state = random_state()
    if position.step % settings.checkpoint_every == 0:
        save(run)


def _step_record(
    report: StepReport, optimizer: torch.optim.Optimizer, *, epoch: int
) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": report.loss,
        **report.terms,
        "learning_rate": {group["component"]: group["lr"] for group in optimizer.param_groups},
        "gradient_norm": report.gradient_norm,
        "images_per_second": report.images / report.seconds,
        "data_wait_fraction": report.waiting_seconds / report.seconds,
        "peak_memory_gb": report.peak_memory_gb,
    }
