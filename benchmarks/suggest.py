"""Labeling simulated: do suggested images teach the model more than random ones?

`python -m benchmarks.suggest` starts from 10% of the labels, and adds three times as many images
as suggested or at random; each time the tiny model is trained from the start, with as many steps
and the same seed in both arms. Prints the AP on the test split, and the paired difference with its
95% interval (Student's t over seeds).
"""

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from segtune.core.config import PredictSettings, TrainSettings, parse_config
from segtune.core.processes import Processes
from segtune.dataset.batch import Batch
from segtune.dataset.coco import Image, Split, has_masks, read_split
from segtune.dataset.detections import Detection, Detections
from segtune.evaluation.average_precision import average_precision_per_class, score_detections
from segtune.evaluation.assessment import main_kind
from segtune.evaluation.calibration import best_threshold
from segtune.evaluation.suggestion import uncertainty
from segtune.lora.inject import inject_lora
from segtune.lora.targets import lora_specs
from segtune.model.architecture import set_image_size
from segtune.model.image_features import encoded_images
from segtune.model.inference import predict_images
from segtune.model.sam3_package import Sam3Image
from segtune.model.weights import load_base_model
from segtune.training.augment import Augmentation
from segtune.training.engine import train_one_epoch
from segtune.training.losses import build_loss
from segtune.training.ood_negatives import names_of, ood_negatives
from segtune.training.optimizer import build_optimizer, set_learning_rates
from segtune.training.prompted_images import PromptedImages, training_batches
from segtune.training.sampling import local_steps

CPU = torch.device("cpu")
SINGLE = Processes(rank=0, count=1, device=CPU)
LOWEST = 0.05


@dataclass(frozen=True)
class Data:
    train: Split
    valid: Split
    test: Split


def part(split: Split, images: Sequence[Image]) -> Split:
    return replace(
        split, images=tuple(images), annotations={i.id: split.annotations[i.id] for i in images}
    )


def trained(split: Split, settings: TrainSettings, *, steps: int, size: int) -> Sam3Image:
    torch.manual_seed(settings.seed)
    model = load_base_model("tiny", "default")
    size = set_image_size(model, "tiny", size)
    lora = {k: v for k, v in settings.lora.items() if k != "segmentation" or has_masks(split)}
    inject_lora(model, lora_specs(lora), settings.seed)
    dataset = PromptedImages(
        split,
        image_size=size,
        max_negatives=settings.max_negatives,
        extra_negatives=settings.extra_negatives,
        augmentation=Augmentation(horizontal_flip=True),
        seed=settings.seed,
        ood_negatives=ood_negatives(settings.ood_negatives, names_of([split])).trained,
        min_negatives=settings.min_negatives,
    )
    optimizer = build_optimizer(model, settings)
    loss = build_loss(model.matcher, with_masks=has_masks(split))
    done = 0

    def set_rates(_: object = None) -> None:
        nonlocal done
        set_learning_rates(
            optimizer,
            step=done,
            total_steps=steps,
            warmup_steps=settings.warmup_steps,
            schedule=settings.schedule,
        )
        done += 1

    set_rates()
    train_one_epoch(
        model,
        loss,
        optimizer,
        steps=batches(dataset, settings, steps),
        processes=SINGLE,
        clip_norm=settings.clip_norm,
        stop_wanted=lambda: False,
        after_step=set_rates,
    )
    return model


def batches(
    dataset: PromptedImages, settings: TrainSettings, steps: int
) -> Iterator[list[Batch]]:
    epoch = 0
    while steps > 0:
        todo = local_steps(
            [1.0] * len(dataset),
            batch_size=settings.batch_size,
            rank=0,
            processes=1,
            seed=settings.seed,
            epoch=epoch,
        )[:steps]
        yield from training_batches(
            dataset, todo, epoch=epoch, micro_batch_size=settings.micro_batch_size, workers=0
        )
        steps -= len(todo)
        epoch += 1


def detections(model: Sam3Image, split: Split, size: int, lowest: float = 0.001) -> Detections:
    found = predict_images(
        model,
        split,
        split.images,
        image_size=size,
        device=CPU,
        settings=PredictSettings(confidence_threshold=lowest),
    )
    return Detections(d for _, many in found for d in many)


def ap(model: Sam3Image, split: Split, size: int) -> dict[str, float | None]:
    return average_precision_per_class(split, detections(model, split, size), main_kind(split))


def mean(values: dict[str, float | None]) -> float:
    known = [v for v in values.values() if v is not None]
    return sum(known) / len(known)


def encoded(model: Sam3Image, split: Split, size: int) -> tuple[Detections, np.ndarray]:
    """Detections down to a low score, and a vector of each image."""
    found: list[Detection] = []
    vectors = []
    with encoded_images(model) as images:
        for _, many in predict_images(
            model,
            split,
            split.images,
            image_size=size,
            device=CPU,
            settings=PredictSettings(confidence_threshold=LOWEST),
        ):
            found += many
            vectors.append(images.take())
    return Detections(found), np.array(vectors)


def thresholds_and_weakness(
    model: Sam3Image, valid: Split, size: int
) -> tuple[dict[int, float], dict[int, float]]:
    scored = score_detections(valid, detections(model, valid, size), main_kind(valid))
    best = {
        c.id: found.threshold if (found := best_threshold(m)) else 0.5
        for c, m in zip(valid.categories, scored.matches, strict=True)
    }
    per_class = scored.summary.per_class
    return best, {c.id: 1 - (per_class[c.name] or 0.0) for c in valid.categories}


def suggested(
    ranking: str, model: Sam3Image, data: Data, labeled: list[Image], *, count: int, size: int, seed: int
) -> list[Image]:
    pool = [i for i in data.train.images if i not in labeled]
    best, weak = thresholds_and_weakness(model, data.valid, size)
    found, vectors = encoded(model, part(data.train, pool), size)
    _, known = encoded(model, part(data.train, labeled), size)
    doubts = np.array(
        [
            sum(weak[d.category_id] * uncertainty(d.score, best[d.category_id]) for d in found.in_image(i.id))
            for i in pool
        ]
    )
    if ranking == "uncertain":
        places = np.argsort(-doubts, kind="stable")[:count].tolist()
    elif ranking == "k_center":
        places = k_center(doubts, vectors, known, count=count)
    else:
        places = clusters(doubts, vectors, count=count, seed=seed)
    return [pool[p] for p in places]


@dataclass(frozen=True)
class Job:
    name: str
    seed: int
    rankings: tuple[str, ...]
    steps: int
    size: int
    coco: str


def data_of(name: str, coco: Path) -> Data:
    train, valid, test = (read_split(coco / f"{s}.json") for s in ("train", "valid", "test"))
    if name != "demo":  # ten test images are few: a third of the originals of train is added
        originals = sorted({original(i) for i in train.images})
        rng = np.random.default_rng(0)
        moved = {originals[k] for k in rng.permutation(len(originals))[: len(originals) // 3]}
        out, seen = [], set()
        for i in train.images:
            if original(i) in moved and original(i) not in seen:
                seen.add(original(i))
                out.append(i)
        stay = [i for i in train.images if original(i) not in moved]
        shift = 10**6
        extra = {i.id + shift: tuple(replace(a, id=a.id + shift, image_id=i.id + shift) for a in train.annotations[i.id]) for i in out}
        test = replace(
            test,
            images=test.images + tuple(replace(i, id=i.id + shift) for i in out),
            annotations={**test.annotations, **extra},
        )
        train = part(train, stay)
    return Data(train, valid, test)


def original(image: Image) -> str:
    return image.file_name.split(".rf.")[0]


def simulate(job: Job) -> list[dict[str, object]]:
    torch.set_num_threads(1)
    data = data_of(job.name, Path(job.coco))
    settings = parse_config({"export": "x"}).train.model_copy(update={"seed": job.seed})
    rng = np.random.default_rng(job.seed)
    order = [data.train.images[k] for k in rng.permutation(len(data.train.images))]
    count = round(len(order) / 10)
    first = trained(part(data.train, order[:count]), settings, steps=job.steps, size=job.size)
    start = ap(first, data.test, job.size)
    rows = [{"name": job.name, "seed": job.seed, "ranking": "start", "round": 0, "ap": mean(start), "per_class": start}]
    for ranking in job.rankings:
        labeled, model = order[:count], first
        for number in (1, 2, 3):
            if ranking == "random":
                labeled = order[: count * (number + 1)]
            else:
                labeled = labeled + suggested(
                    ranking, model, data, labeled, count=count, size=job.size, seed=job.seed
                )
            model = trained(part(data.train, labeled), settings, steps=job.steps, size=job.size)
            scores = ap(model, data.test, job.size)
            chosen = part(data.train, labeled)
            row = {
                "name": job.name, "seed": job.seed, "ranking": ranking, "round": number,
                "ap": mean(scores), "per_class": scores, "images": len(labeled), "originals": len({original(i) for i in labeled}),
                "objects": {c.name: sum(a.category_id == c.id for a in chosen.objects) for c in chosen.categories},
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--rankings", nargs="+")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", type=int, default=96)
    a = parser.parse_args()
    for seed in a.seeds:
        for row in simulate(Job(a.name, seed, tuple(a.rankings), a.steps, a.size, f"/tmp/s/{a.name}"))[:1]:
            print(json.dumps(row), flush=True)
