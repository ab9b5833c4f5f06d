"""LoRA against full fine-tuning, component by component, and what each of them forgets.

`python -m benchmarks.adaptation` fine-tunes the tiny model on the demo: with the shipped
settings, with LoRA on one component alone, with LoRA that is free to forget, and with every
parameter trained in the same steps (at the learning rate that is best on `valid`, keeping
the last step). Prints a table of mask AP on the test split and of the mask AP that is left
on the source domain.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from pretraining.train_tiny import measure
from segtune.core.config import PredictSettings, TrainSettings
from segtune.core.processes import Processes
from segtune.dataset.coco import Split, read_split
from segtune.evaluation.average_precision import average_precision
from segtune.evaluation.false_alarms import false_alarms
from segtune.lora.adapter import attach_adapter
from segtune.lora.inject import lora_parameters
from segtune.model.architecture import ARCHITECTURES
from segtune.model.inference import predict_images
from segtune.model.sam3_package import Sam3Image
from segtune.model.weights import load_base_model
from segtune.training.augment import Augmentation
from segtune.training.engine import StepReport, train_one_epoch
from segtune.training.losses import build_loss
from segtune.training.optimizer import learning_rate_factor
from segtune.training.prompted_images import PromptedImages, training_batches
from segtune.training.sampling import local_steps

ROOT = Path(__file__).parent.parent
SIZE = ARCHITECTURES["tiny"].image_size
CPU = torch.device("cpu")
FREE_ALPHA = 16.0  # as much everywhere as is good for the new domain alone
FULL_LEARNING_RATES = (1e-4, 3e-4, 1e-3)
TITLES = {
    "all": "LoRA on all five: the shipped settings",
    "free": f"LoRA on all five, each with alpha {FREE_ALPHA:g}",
}
SOURCE_IMAGES = 200


@dataclass(frozen=True)
class Result:
    """One fine-tuned model."""

    parameters: int  # trained
    valid_ap: float
    test_ap: float
    source_ap: float
    alarms: float  # share of absent prompts that fire at 0.5, on the test split


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of all, free and full")
    parser.add_argument("--only", nargs="*", help="all, free, full or components; default: each")
    arguments = parser.parse_args(argv)
    shipped = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))["train"]
    print("| trained | parameters | valid AP | test AP | false alarms | source AP | kept |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        coco = Path(folder) / "coco"
        stage("convert", "--export", ROOT / "data/demo", "--out", coco)
        stage("validate", "--coco", coco, "--out", folder)
        base = tested(load_base_model("tiny", "default"), coco, 0)
        row("nothing: zero-shot", [base], base)
        for name in arguments.only or ["all", *shipped["lora"], "free", "full"]:
            seeds = range(arguments.seeds if name in ("all", "free", "full") else 1)
            if name == "full":
                row("every parameter", full(shipped, seeds, coco), base)
            else:
                results = [lora(shipped, name, seed, coco) for seed in seeds]
                row(TITLES.get(name, f"LoRA on {name} alone"), results, base)


def stage(name: str, *arguments: object) -> None:
    """Run one stage as users do."""
    command = [sys.executable, "-m", f"segtune.{name}", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def lora(shipped: dict[str, Any], component: str, seed: int, coco: Path) -> Result:
    """LoRA on one component, on all that the settings name, or on these without restraint."""
    adapted = shipped["lora"]
    chosen = {
        "all": adapted,
        "free": {name: {**spec, "alpha": FREE_ALPHA} for name, spec in adapted.items()},
    }.get(component) or {component: adapted[component]}
    settings = {**shipped, "seed": seed, "lora": chosen}
    out = coco.parent / f"{component}-{seed}"
    paths = ("--coco", coco, "--report", coco.parent / "report.json", "--out", out)
    stage("train", *paths, "--settings", json.dumps(settings))
    stage("merge", "--adapter", out / "adapter", "--out", out)
    adapted = load_base_model("tiny", "default")
    attach_adapter(adapted, out / "adapter")
    trained = sum(parameter.numel() for parameter in lora_parameters(adapted).values())
    return tested(load_base_model("tiny", str(out / "sam3.pt")), coco, trained)


def full(shipped: dict[str, Any], seeds: Sequence[int], coco: Path) -> list[Result]:
    """Every parameter trained, at the learning rate that does best on `valid` for one seed."""
    valid = read_split(coco / "valid.json")
    settings = [TrainSettings(**{**shipped, "seed": seed}) for seed in seeds]
    tried = {rate: _trained_whole(settings[0], rate, coco) for rate in FULL_LEARNING_RATES}
    best = max(tried, key=lambda rate: mask_ap(tried[rate], valid)[0])
    models = [tried[best], *(_trained_whole(s, best, coco) for s in settings[1:])]
    count = sum(p.numel() for p in models[0].parameters() if p.requires_grad)
    return [tested(model, coco, count) for model in models]


def _trained_whole(settings: TrainSettings, rate: float, coco: Path) -> Sam3Image:
    train = read_split(coco / "train.json")
    model = load_base_model("tiny", "default")
    prompted = (settings.max_negatives, settings.extra_negatives)
    augmentation = Augmentation(settings.horizontal_flip)
    dataset = PromptedImages(train, SIZE, *prompted, augmentation, settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=settings.weight_decay)
    loss = build_loss(model.matcher, with_masks=True)
    total = settings.epochs * -(-len(dataset) // settings.batch_size)
    done = 0

    def set_rate(_: StepReport | None = None) -> None:
        nonlocal done
        factor = learning_rate_factor(done, total, settings.warmup_steps, settings.schedule)
        optimizer.param_groups[0]["lr"] = rate * factor
        done += 1

    set_rate()
    for epoch in range(settings.epochs):
        steps = local_steps([1.0] * len(dataset), settings.batch_size, 0, 1, settings.seed, epoch)
        batches = training_batches(dataset, steps, epoch, settings.micro_batch_size, 0)
        alone = Processes(0, 1, CPU)
        train_one_epoch(
            model, loss, optimizer, batches, alone, settings.clip_norm, lambda: False, set_rate
        )
    return model


def tested(model: Sam3Image, coco: Path, parameters: int) -> Result:
    """Score a model on the test split and on images of the source domain."""
    valid_ap, _ = mask_ap(model, read_split(coco / "valid.json"))
    test_ap, alarms = mask_ap(model, read_split(coco / "test.json"))
    source = measure(model, CPU, SOURCE_IMAGES)["mask_AP"]
    return Result(parameters, valid_ap, test_ap, source, alarms)


def mask_ap(model: Sam3Image, split: Split) -> tuple[float, float]:
    """Mask AP, and the mean share of absent prompts that fire."""
    found = predict_images(model, split, split.images, SIZE, CPU, PredictSettings())
    results = [result for _, mine in found for result in mine]
    alarms = [share for share in false_alarms(split, results, 0.5).values() if share is not None]
    return average_precision(split, results, "segm")["AP"], sum(alarms) / len(alarms)


def row(name: str, results: Sequence[Result], base: Result) -> None:
    """Print one line of the table."""
    scores = [result.test_ap for result in results]
    spread = f" ({min(scores):.3f} to {max(scores):.3f})" if len(scores) > 1 else ""
    valid = statistics.mean(result.valid_ap for result in results)
    source = statistics.mean(result.source_ap for result in results)
    alarms = statistics.mean(result.alarms for result in results)
    print(
        f"| {name} | {results[0].parameters:,} | {valid:.3f} | "
        f"{statistics.mean(scores):.3f}{spread} | "
        f"{100 * alarms:.0f} % | {source:.3f} | {100 * source / base.source_ap:.0f} % |",
        flush=True,
    )


if __name__ == "__main__":
    main()
