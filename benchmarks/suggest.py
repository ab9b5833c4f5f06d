"""Labeling simulated: do suggested images teach the model more than random ones?

`python -m benchmarks.suggest` starts from a tenth of the demo's training images, and three times
adds as many: in one arm those that `segtune.suggest` would choose among the others with the model
trained so far, in the other arm random ones. Each time the tiny model is trained from the start,
with as many steps and the same seed in both arms. Thresholds and AP per class, which the choice
depends on, are those on `valid`. Prints the AP on the test split, and the paired difference with
its 95% interval (Student's t over seeds). `--out` keeps what is finished, so that the same command
continues.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from segtune.core.config import PredictSettings, TrainSettings, parse_config
from segtune.core.processes import Processes
from segtune.dataset.batch import Batch
from segtune.dataset.coco import Image, Split, has_masks, read_split
from segtune.dataset.detections import Detections, to_record
from segtune.dataset.labels import distinct_records
from segtune.evaluation.arrays import Array
from segtune.evaluation.assessment import main_kind
from segtune.evaluation.average_precision import average_precision_per_class, score_detections
from segtune.evaluation.calibration import best_threshold
from segtune.evaluation.suggestion import LOWEST_SCORE, ClassState, choose, image_uncertainty
from segtune.lora.inject import inject_lora
from segtune.lora.targets import lora_specs
from segtune.model.architecture import ARCHITECTURES
from segtune.model.image_features import described_images
from segtune.model.inference import predict_images
from segtune.model.sam3_package import Sam3Image
from segtune.model.weights import load_base_model
from segtune.training.augment import Augmentation
from segtune.training.engine import StepReport, train_one_epoch
from segtune.training.losses import build_loss
from segtune.training.ood_negatives import names_of, ood_negatives
from segtune.training.optimizer import build_optimizer, set_learning_rates
from segtune.training.prompted_images import PromptedImages, training_batches
from segtune.training.sampling import local_steps

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
SIZE = ARCHITECTURES["tiny"].image_size
FRACTION = 0.1  # of the training images: at the start, and added in each round
ROUNDS = 3
START = "start"


@dataclass(frozen=True)
class Data:
    """A dataset whose training images get their labels little by little."""

    train: Split
    valid: Split
    test: Split


@dataclass(frozen=True)
class Row:
    """What a training has shown."""

    seed: int
    arm: str  # or START, before the first round
    images: int
    originals: int  # among them
    objects: int
    ap: float  # on the test split
    per_class: dict[str, float | None]


@dataclass(frozen=True)
class Pool:
    """What is known of the images among which to choose, and of the labeled ones."""

    doubts: Array  # (n,)
    vectors: Array  # (n, d)
    labeled: Array  # (m, d)


def most_uncertain(pool: Pool, count: int) -> list[int]:
    """Without diversity, for comparison."""
    places: list[int] = np.argsort(-pool.doubts, kind="stable")[:count].tolist()
    return places


ARMS: dict[str, Callable[[Pool, int], list[int]]] = {
    "suggested": lambda pool, count: choose(pool.doubts, pool.vectors, pool.labeled, count=count),
    "most uncertain": most_uncertain,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, then print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", type=Path, default=ROOT / "data/demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["suggested"])
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument(
        "--to-test", type=float, default=0, help="fraction of train's originals moved to test"
    )
    parser.add_argument("--out", type=Path, help="file of the results, a line for each training")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        convert = ["segtune.convert", "--export", arguments.export, "--out", folder]
        run = [sys.executable, "-m", *map(str, convert)]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
        data = with_more_tests(
            Data(*(read_split(Path(folder) / f"{n}.json") for n in ("train", "valid", "test"))),
            arguments.to_test,
        )
        out = arguments.out or Path(folder) / "rows.jsonl"
        out.touch()
        for seed in arguments.seeds:
            simulate(data, seed, ["random", *arguments.arms], arguments.steps, out)
        rows = read_rows(out)
    images, tests = len(data.train.images), len(data.test.images)
    print(f"{images} images, {tests} of test, {main_kind(data.test)} AP")
    for arm in arguments.arms:
        print_table([row for row in rows if row.seed in arguments.seeds], arm)


def read_rows(path: Path) -> list[Row]:
    """What was finished."""
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()]


def original(image: Image) -> str:
    """The photograph of an augmented copy, by Roboflow's file names."""
    return image.original or image.file_name.partition(".rf.")[0]


def part(split: Split, images: Sequence[Image]) -> Split:
    """Some images of a split."""
    annotations = {image.id: split.annotations[image.id] for image in images}
    return replace(split, images=tuple(images), annotations=annotations)


def with_more_tests(data: Data, fraction: float) -> Data:
    """Move a fraction of the originals of train, whose copies are dropped, to the test split."""
    originals = sorted({original(image) for image in data.train.images})
    order = np.random.default_rng(0).permutation(len(originals))
    moved = {originals[place] for place in order[: round(fraction * len(originals))]}
    first = {original(image): image for image in reversed(data.train.images)}
    shift = max(image.id for image in data.test.images)
    images, annotations = list(data.test.images), dict(data.test.annotations)
    for name in sorted(moved):
        image = replace(first[name], id=first[name].id + shift)
        images.append(image)
        annotations[image.id] = tuple(
            replace(a, id=a.id + 10**6, image_id=image.id)
            for a in data.train.annotations[first[name].id]
        )
    stay = [image for image in data.train.images if original(image) not in moved]
    test = replace(data.test, images=tuple(images), annotations=annotations)
    return Data(part(data.train, stay), data.valid, test)


def simulate(data: Data, seed: int, arms: Sequence[str], steps: int, out: Path) -> None:
    """Train what is not in the file of results yet."""
    settings = parse_config({"export": "data/demo"}).train.model_copy(update={"seed": seed})
    order = np.random.default_rng(seed).permutation(len(data.train.images))
    shuffled = [data.train.images[place] for place in order]
    count = round(FRACTION * len(shuffled))
    finished = {row.arm for row in read_rows(out) if row.seed == seed}
    if finished >= {*arms}:
        return
    first = trained(part(data.train, shuffled[:count]), settings, steps)
    if START not in finished:
        note(out, row_of(first, data, shuffled[:count], seed=seed, arm=START))
    for arm in arms:
        if arm in finished:
            continue
        labeled, model = shuffled[:count], first
        for number in range(1, ROUNDS + 1):
            added = shuffled[len(labeled) : len(labeled) + count]
            if arm != "random":
                added = chosen(model, data, labeled, arm, count)
            labeled = [*labeled, *added]
            # Random images do not depend on a model.
            if arm != "random" or number == ROUNDS:
                model = trained(part(data.train, labeled), settings, steps)
        note(out, row_of(model, data, labeled, seed=seed, arm=arm))


def note(path: Path, row: Row) -> None:
    """Keep what is finished."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def chosen(
    model: Sam3Image, data: Data, labeled: Sequence[Image], arm: str, count: int
) -> list[Image]:
    """The images that an arm adds."""
    known = {image.id for image in labeled}
    pool = [image for image in data.train.images if image.id not in known]
    classes = class_states(model, data.valid)
    vectors, doubts = described(model, part(data.train, pool), classes)
    known_vectors, _ = described(model, part(data.train, labeled), classes)
    places = ARMS[arm](Pool(doubts, vectors, known_vectors), count)
    return [pool[place] for place in places]


def class_states(model: Sam3Image, valid: Split) -> list[ClassState]:
    """Thresholds and AP on `valid`: the test split must not help to choose."""
    scored = score_detections(valid, detections(model, valid), main_kind(valid))
    return [
        ClassState(
            c.name,
            best.threshold if (best := best_threshold(matches)) else 0.5,
            scored.summary.per_class[c.name],
        )
        for c, matches in zip(valid.categories, scored.matches, strict=True)
    ]


def described(model: Sam3Image, split: Split, classes: Sequence[ClassState]) -> tuple[Array, Array]:
    """Vectors and uncertainties of the images, as `segtune.suggest` has them."""
    vectors, doubts = [], []
    lowest = min([LOWEST_SCORE, *(c.threshold for c in classes)])
    found = described_images(
        model,
        split,
        split.images,
        image_size=SIZE,
        device=CPU,
        settings=PredictSettings(confidence_threshold=lowest),
    )
    names = {c.id: c.name for c in split.categories}
    with closing(found):
        for _, vector, objects in found:
            scores: dict[str, list[float]] = {name: [] for name in names.values()}
            for record in distinct_records(to_record(one) for one in objects):
                scores[names[record["category_id"]]].append(record["score"])
            vectors.append(vector)
            doubts.append(image_uncertainty(scores, classes))
    return np.array(vectors, np.float32), np.array(doubts)


def detections(model: Sam3Image, split: Split) -> Detections:
    """All that the model detects."""
    found = predict_images(
        model, split, split.images, image_size=SIZE, device=CPU, settings=PredictSettings()
    )
    return Detections(one for _, objects in found for one in objects)


def row_of(model: Sam3Image, data: Data, images: Sequence[Image], *, seed: int, arm: str) -> Row:
    """Measure a model on the test split."""
    found = detections(model, data.test)
    per_class = average_precision_per_class(data.test, found, main_kind(data.test))
    known = [value for value in per_class.values() if value is not None]
    return Row(
        seed=seed,
        arm=arm,
        images=len(images),
        originals=len({original(image) for image in images}),
        objects=len(part(data.train, images).objects),
        ap=statistics.mean(known),
        per_class=per_class,
    )


def trained(split: Split, settings: TrainSettings, steps: int) -> Sam3Image:
    """The tiny model with LoRA, after this many steps on some images."""
    torch.manual_seed(settings.seed)
    model = load_base_model("tiny", "default")
    masks = has_masks(split)
    components = {n: lora for n, lora in settings.lora.items() if masks or n != "segmentation"}
    inject_lora(model, lora_specs(components), settings.seed)
    dataset = PromptedImages(
        split,
        image_size=SIZE,
        max_negatives=settings.max_negatives,
        extra_negatives=settings.extra_negatives,
        augmentation=Augmentation(horizontal_flip=settings.horizontal_flip),
        seed=settings.seed,
        ood_negatives=ood_negatives(settings.ood_negatives, names_of([split])).trained,
        min_negatives=settings.min_negatives,
    )
    optimizer = build_optimizer(model, settings)
    done = 0

    def set_rates(_: StepReport | None = None) -> None:
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
        build_loss(model.matcher, with_masks=masks),
        optimizer,
        steps=batches(dataset, settings, steps),
        processes=Processes(rank=0, count=1, device=CPU),
        clip_norm=settings.clip_norm,
        stop_wanted=lambda: False,
        after_step=set_rates,
    )
    return model


def batches(dataset: PromptedImages, settings: TrainSettings, steps: int) -> Iterator[list[Batch]]:
    """As many epochs as make up the steps, the last of which may be cut."""
    epoch = 0
    while steps > 0:
        epoch_steps = local_steps(
            [1.0] * len(dataset),
            batch_size=settings.batch_size,
            rank=0,
            processes=1,
            seed=settings.seed,
            epoch=epoch,
        )[:steps]
        yield from training_batches(
            dataset,
            epoch_steps,
            epoch=epoch,
            micro_batch_size=settings.micro_batch_size,
            workers=0,
        )
        steps, epoch = steps - len(epoch_steps), epoch + 1


def print_table(rows: Sequence[Row], arm: str) -> None:
    """AP in both arms by seed, and the difference over the seeds that have finished both."""
    found = {(row.seed, row.arm): row for row in rows}
    seeds = sorted({seed for seed, name in found if name == arm})
    print(f"| seed | start | random | {arm} | objects | originals |\n|---|---|---|---|---|---|")
    gains = []
    for seed in seeds:
        start, random, own = (found[seed, name] for name in (START, "random", arm))
        gains.append(own.ap - random.ap)
        print(
            f"| {seed} | {start.ap:.3f} | {random.ap:.3f} | {own.ap:.3f} | "
            f"{random.objects} / {own.objects} | {random.originals} / {own.originals} |"
        )
    mean, low, high = interval(gains)
    print(f"difference {mean:+.3f}, 95% interval {low:+.3f} to {high:+.3f}", flush=True)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95% interval by Student's t."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, float("-inf"), float("inf")
    spread = statistics.stdev(values) / len(values) ** 0.5
    width = float(student.ppf(0.975, len(values) - 1)) * spread
    return mean, mean - width, mean + width


if __name__ == "__main__":
    main()
