"""Train the tiny SAM 3 from scratch, and measure it on images that it has never seen.

`python -m pretraining.train_tiny --out src/segtune/model/tiny.safetensors` trains every
parameter with the official loss on shapes drawn on the fly; `--measure default` only measures.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, IterableDataset

from pretraining.shapes import as_input, box_xywh, training_sample
from segtune.core.atomic import atomic_path
from segtune.core.config import PredictSettings
from segtune.core.processes import Processes, local_device
from segtune.dataset.batch import Batch, collate
from segtune.dataset.coco import Annotation, Category, Image, Split
from segtune.dataset.detections import Detections
from segtune.dataset.drawn_shapes import SIDE, WORDS, Scene, draw_scene
from segtune.dataset.masks import mask_to_rle
from segtune.evaluation.average_precision import average_precision
from segtune.evaluation.false_alarms import false_alarms
from segtune.model.architecture import build_model
from segtune.model.inference import PreparedImage, predict
from segtune.model.sam3_package import Sam3Image
from segtune.model.weights import load_base_model
from segtune.training.engine import StepReport, train_one_epoch
from segtune.training.losses import build_loss
from segtune.training.optimizer import learning_rate_factor

BATCH_SIZE = 12  # images per step, four prompts each
PEAK_LEARNING_RATE = 8e-4
WARMUP_STEPS = 100
CLIP_NORM = 0.1
MEASURED_SEED, MEASURED_IMAGES = 10_000, 200
SAVE_EVERY = 250  # steps
LOG_EVERY = 25  # steps


class Shapes(IterableDataset[Batch]):
    """Batches of new images, the same for the same seed."""

    def __init__(self, seed: int, steps: int) -> None:
        self.seed, self.steps = seed, steps

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.steps):
            numbers = range(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)
            yield collate([training_sample(self.seed, n) for n in numbers], with_masks=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Train and save, or measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the weights to write")
    parser.add_argument("--measure", help="weights to measure: default, or a merged sam3.pt")
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    device = local_device()
    model = build_model("tiny", arguments.seed).to(device)
    if arguments.out:
        train(model, device, steps=arguments.steps, seed=arguments.seed, out=arguments.out)
    if arguments.measure:
        model = load_base_model("tiny", arguments.measure).to(device)
    print(measure(model, device))


def train(model: Sam3Image, device: torch.device, *, steps: int, seed: int, out: Path) -> None:
    """Train every parameter, and save the weights every `SAVE_EVERY` steps."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=1e-4)
    done, began = 0, time.monotonic()

    def set_learning_rate() -> None:
        factor = learning_rate_factor(
            done, total_steps=steps, warmup_steps=WARMUP_STEPS, schedule="cosine"
        )
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * factor

    def after_step(report: StepReport) -> None:
        nonlocal done
        done += 1
        set_learning_rate()
        if done % LOG_EVERY == 0:
            minutes = (time.monotonic() - began) / 60
            terms = "  ".join(f"{name} {value:.3f}" for name, value in report.terms.items())
            print(
                f"step {done}/{steps}  {minutes:.1f} min  loss {report.loss:.1f}  {terms}",
                flush=True,
            )
        if done % SAVE_EVERY == 0:
            save(model, out)

    set_learning_rate()
    loader = DataLoader(Shapes(seed, steps), batch_size=None, num_workers=1)
    loss = build_loss(model.matcher, with_masks=True)
    batches = ([batch] for batch in loader)
    with mock.patch("torch.utils.checkpoint.checkpoint", _without_recomputing):
        train_one_epoch(
            model,
            loss,
            optimizer,
            steps=batches,
            processes=Processes(rank=0, count=1, device=device),
            clip_norm=CLIP_NORM,
            stop_wanted=lambda: False,
            after_step=after_step,
        )
    save(model, out)


def _without_recomputing(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Replaces activation checkpointing, because a tiny model does not need to save memory."""
    options.pop("use_reentrant", None)
    return function(*args, **options)


def save(model: Sam3Image, out: Path) -> None:
    """Write the parameters in half precision: 7.6 MB. Buffers follow from the architecture."""
    halves = {name: p.detach().half().cpu() for name, p in model.named_parameters()}
    with atomic_path(out) as temporary:
        save_file(halves, temporary, metadata={"format": "pt"})


def measure(
    model: Sam3Image, device: torch.device, images: int = MEASURED_IMAGES
) -> dict[str, float | None]:
    """Mask AP over all words, and the fraction of absent words that are detected anyway."""
    rngs = [np.random.default_rng([MEASURED_SEED, n]) for n in range(images)]
    scenes = [draw_scene(rng) for rng in rngs]
    split = as_split(scenes)
    prompts = tuple(enumerate(WORDS, start=1))
    inputs = (
        PreparedImage(id=number, pixels=as_input(scene.pixels), size=(SIDE, SIDE), prompts=prompts)
        for number, scene in enumerate(scenes, start=1)
    )
    settings = PredictSettings(prompts_per_pass=len(WORDS))
    predictions = predict(model, inputs, WORDS, device=device, settings=settings)
    detections = Detections(detection for _, found in predictions for detection in found)
    rates = [
        rate for rate in false_alarms(split, detections, threshold=0.5).values() if rate is not None
    ]
    masks = average_precision(split, detections, "mask")
    return {
        "mask_AP": masks.AP,
        "mask_AP50": masks.AP50,
        "box_AP": average_precision(split, detections, "box").AP,
        "false_alarms": sum(rates) / len(rates),
        **{f"AP {word}": value for word, value in masks.per_class.items()},
    }


def as_split(scenes: Sequence[Scene]) -> Split:
    """Ground truth with one class per word."""
    annotations: dict[int, tuple[Annotation, ...]] = {}
    number = 0
    for image_id, scene in enumerate(scenes, start=1):
        found = []
        for category, word in enumerate(WORDS, start=1):
            for shape in (s for s in scene.shapes if word in s.words):
                number += 1
                rle, area = mask_to_rle(shape.mask), float(shape.mask.sum())
                box = box_xywh(shape.mask)
                found.append(
                    Annotation(
                        id=number,
                        image_id=image_id,
                        category_id=category,
                        bbox_xywh=box,
                        area=area,
                        segmentation=rle,
                        iscrowd=0,
                    )
                )
        annotations[image_id] = tuple(found)
    return Split(
        name="shapes",
        root=Path(),
        categories=tuple(Category(n, word, word) for n, word in enumerate(WORDS, start=1)),
        images=tuple(Image(n, "", SIDE, SIDE) for n in annotations),
        annotations=annotations,
    )


if __name__ == "__main__":
    main()
