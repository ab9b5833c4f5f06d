"""LoRA against full fine-tuning, component by component, and how much each one forgets.

`python -m benchmarks.adaptation` fine-tunes the tiny model on the demo: with the shipped
settings, whose strength is chosen after training; the same at full strength; cautiously, with
small alphas where little should change; with LoRA on only one component; and with every parameter
trained in the same steps (at the learning rate that is best on `valid`, using the weights after
the last step). Prints a table of mask AP on the test split and on the source domain.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pretraining.train_tiny import measure
from segtune.core.config import Config, PredictSettings, TrainSettings, parse_config
from segtune.core.processes import Processes
from segtune.dataset.batch import Batch
from segtune.dataset.coco import Split, read_split
from segtune.dataset.detections import Detections
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
from segtune.training.ood_negatives import names_of, ood_negatives
from segtune.training.optimizer import learning_rate_factor
from segtune.training.prompted_images import PromptedImages, training_batches
from segtune.training.sampling import local_steps

ROOT = Path(__file__).parent.parent
SIZE = ARCHITECTURES["tiny"].image_size
CPU = torch.device("cpu")
SINGLE_PROCESS = Processes(rank=0, count=1, device=CPU)
# What was shipped before there was a strength: new words are learned where they are read.
CAUTIOUS_ALPHAS = {
    "text": 24.0,
    "vision": 2.0,
    "detr_encoder": 1.5,
    "detr_decoder": 2.0,
    "segmentation": 8.0,
}
FULL_LEARNING_RATES = (1e-4, 3e-4, 1e-3)
TITLES = {
    "all": "LoRA on all five: the shipped settings",
    "whole": "the same at strength 1",
    "cautious": "LoRA on all five, with cautious alphas, at strength 1",
}
SOURCE_IMAGES = 200


@dataclass(frozen=True)
class Result:
    """One fine-tuned model."""

    parameters: int  # trained
    valid_ap: float
    test_ap: float
    source_ap: float
    false_alarms: float  # fraction of negatives detected at 0.5, on the test split


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=3, help="runs of all, whole, cautious and full"
    )
    parser.add_argument("--only", nargs="*", help="of these and components; default: each")
    arguments = parser.parse_args(argv)
    config = parse_config({"export": "data/demo"})
    shipped = config.train.model_dump(mode="json")
    print("| trained | parameters | valid AP | test AP | false alarms | source AP | retained |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        coco = Path(folder) / "coco"
        stage("convert", "--export", ROOT / "data/demo", "--out", coco)
        stage("validate", "--coco", coco, "--out", folder)
        base = evaluated(load_base_model("tiny", "default"), coco, 0)
        row("nothing: zero-shot", [base], base)
        for name in arguments.only or ["all", "whole", "cautious", *shipped["lora"], "full"]:
            seeds = range(arguments.seeds if name in (*TITLES, "full") else 1)
            if name == "full":
                row("every parameter", full(shipped, seeds, coco), base)
            else:
                results = [lora(config, name, seed=seed, coco=coco) for seed in seeds]
                row(TITLES.get(name, f"LoRA on {name} only"), results, base)


def stage(name: str, *arguments: object) -> None:
    """Run one stage as users do."""
    command = [sys.executable, "-m", f"segtune.{name}", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def lora(config: Config, component: str, *, seed: int, coco: Path) -> Result:
    """LoRA on one component, or on all that the settings name."""
    out = coco.parent / f"{component}-{seed}"
    # What differs only in strength has one training.
    trained = coco.parent / f"{'all' if component == 'whole' else component}-{seed}"
    if not (trained / "adapter").exists():
        settings = {"lora": adapted_by(config, component), "seed": seed}
        values = json.dumps({**config.train.model_dump(mode="json"), **settings})
        paths = ("--coco", coco, "--report", coco.parent / "report.json", "--out", trained)
        stage("train", *paths, "--settings", values)
    merge = ["--adapter", trained / "adapter", "--out", out]
    if component == "all":
        prompts = ("--prompt", *config.evaluate.ood_prompts)
        stage("strength", "--coco", coco / "valid.json", *merge, *prompts)
        merge += ["--strengths", out / "strength.json"]
    stage("merge", *merge)
    adapted = load_base_model("tiny", "default")
    attach_adapter(adapted, trained / "adapter")
    parameters = sum(parameter.numel() for parameter in lora_parameters(adapted).values())
    return evaluated(load_base_model("tiny", str(out / "sam3.pt")), coco, parameters)


def adapted_by(config: Config, component: str) -> dict[str, Any]:
    """`train.lora` of a row of the table."""
    shipped: dict[str, Any] = config.train.model_dump(mode="json")["lora"]
    cautious = {name: {**shipped[name], "alpha": a} for name, a in CAUTIOUS_ALPHAS.items()}
    if component in ("all", "whole"):
        return shipped
    return cautious if component == "cautious" else {component: cautious[component]}


def full(shipped: dict[str, Any], seeds: Sequence[int], coco: Path) -> list[Result]:
    """Every parameter trained, at the learning rate that is best on `valid` for one seed."""
    valid = read_split(coco / "valid.json")
    settings = [TrainSettings(**{**shipped, "seed": seed}) for seed in seeds]
    tried = {rate: _fully_trained(settings[0], rate, coco) for rate in FULL_LEARNING_RATES}
    best = max(tried, key=lambda rate: mask_ap(tried[rate], valid)[0])
    models = [tried[best], *(_fully_trained(s, best, coco) for s in settings[1:])]
    count = sum(p.numel() for p in models[0].parameters() if p.requires_grad)
    return [evaluated(model, coco, count) for model in models]


def _fully_trained(settings: TrainSettings, rate: float, coco: Path) -> Sam3Image:
    train = read_split(coco / "train.json")
    model = load_base_model("tiny", "default")
    dataset = PromptedImages(
        train,
        image_size=SIZE,
        max_negatives=settings.max_negatives,
        extra_negatives=settings.extra_negatives,
        augmentation=Augmentation(horizontal_flip=settings.horizontal_flip),
        seed=settings.seed,
        ood_negatives=ood_negatives(settings.ood_negatives, names_of([train])).trained,
        min_negatives=settings.min_negatives,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=settings.weight_decay)
    loss = build_loss(model.matcher, with_masks=True)
    total = settings.epochs * -(-len(dataset) // settings.batch_size)
    done = 0

    def set_rate(_: StepReport | None = None) -> None:
        nonlocal done
        factor = learning_rate_factor(
            done,
            total_steps=total,
            warmup_steps=settings.warmup_steps,
            schedule=settings.schedule,
        )
        optimizer.param_groups[0]["lr"] = rate * factor
        done += 1

    set_rate()
    for epoch in range(settings.epochs):
        train_one_epoch(
            model,
            loss,
            optimizer,
            steps=_epoch_batches(dataset, settings, epoch),
            processes=SINGLE_PROCESS,
            clip_norm=settings.clip_norm,
            stop_wanted=lambda: False,
            after_step=set_rate,
        )
    return model


def _epoch_batches(
    dataset: PromptedImages, settings: TrainSettings, epoch: int
) -> Iterator[list[Batch]]:
    steps = local_steps(
        [1.0] * len(dataset),
        batch_size=settings.batch_size,
        rank=0,
        processes=1,
        seed=settings.seed,
        epoch=epoch,
    )
    return training_batches(
        dataset, steps, epoch=epoch, micro_batch_size=settings.micro_batch_size, workers=0
    )


def evaluated(model: Sam3Image, coco: Path, parameters: int) -> Result:
    """Score a model on the test split and on images of the source domain."""
    valid_ap, _ = mask_ap(model, read_split(coco / "valid.json"))
    test_ap, alarms = mask_ap(model, read_split(coco / "test.json"))
    source_ap = measure(model, CPU, SOURCE_IMAGES)["mask_AP"] or 0.0
    return Result(
        parameters=parameters,
        valid_ap=valid_ap,
        test_ap=test_ap,
        source_ap=source_ap,
        false_alarms=alarms,
    )


def mask_ap(model: Sam3Image, split: Split) -> tuple[float, float]:
    """Mask AP, and the mean fraction of negatives that are detected."""
    predictions = predict_images(
        model, split, split.images, image_size=SIZE, device=CPU, settings=PredictSettings()
    )
    detections = Detections(detection for _, found in predictions for detection in found)
    rates = [
        rate for rate in false_alarms(split, detections, threshold=0.5).values() if rate is not None
    ]
    return average_precision(split, detections, "mask").AP or 0.0, sum(rates) / len(rates)


def row(name: str, results: Sequence[Result], base: Result) -> None:
    """Print one line of the table."""
    scores = [result.test_ap for result in results]
    spread = f" ({min(scores):.3f} to {max(scores):.3f})" if len(scores) > 1 else ""
    valid = statistics.mean(result.valid_ap for result in results)
    source = statistics.mean(result.source_ap for result in results)
    alarms = statistics.mean(result.false_alarms for result in results)
    print(
        f"| {name} | {results[0].parameters:,} | {valid:.3f} | "
        f"{statistics.mean(scores):.3f}{spread} | "
        f"{100 * alarms:.0f}% | {source:.3f} | {100 * source / base.source_ap:.0f}% |",
        flush=True,
    )


if __name__ == "__main__":
    main()
