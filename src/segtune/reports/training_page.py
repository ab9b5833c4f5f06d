"""The page of a finished training run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image as PilImage
from pydantic import TypeAdapter, ValidationError

from segtune.core.errors import DatasetError
from segtune.core.typed_json import read_typed
from segtune.dataset.coco import Image, Split
from segtune.dataset.detections import Detections
from segtune.dataset.preview import preview_images
from segtune.reports.drawing import contact_sheet, data_uri
from segtune.reports.loss_chart import loss_curve
from segtune.reports.page import write_page


@dataclass(frozen=True)
class TrainStep:
    """One optimizer step."""

    loss: float
    images_per_second: float
    data_wait_fraction: float
    peak_memory_gb: float  # of a process


@dataclass(frozen=True)
class Validation:
    """Scores on the valid split after an epoch; epoch 0 is the base model."""

    epoch: int
    scores: dict[str, float]  # over all classes
    per_class: dict[str, float]  # AP
    false_alarms: dict[str, float] = field(default_factory=dict)  # fractions, by kind of prompt


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    best_epoch: int
    best_score: float
    base_score: float  # before training
    seconds: float  # in optimizer steps


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a component of the model."""

    trainable: int
    total: int


@dataclass(frozen=True)
class Negatives:
    """Negative prompts in an epoch."""

    absent: int  # absent classes and extra negatives
    ood: int  # out-of-distribution
    beside_objects: int  # of all of these, in images that show something


@dataclass(frozen=True)
class Recipe:
    """The part of `recipe.json` that the page shows."""

    settings: dict[str, Any]  # the train section, whatever its version
    result: Result
    parameters: dict[str, ParameterCount]  # by component
    negatives: Negatives | None = None  # None in recipes of earlier versions


@dataclass(frozen=True)
class TrainingRun:
    """A finished run."""

    recipe: Recipe
    steps: list[TrainStep]
    validations: list[Validation]


@dataclass(frozen=True)
class Sheet:
    """A contact sheet as a data URI."""

    title: str
    image: str
    description: str


def read_training_run(folder: Path) -> TrainingRun:
    """Read `adapter/recipe.json` and `history.jsonl` as `segtune.train` wrote them.

    Raises:
        DatasetError: when one is missing or has another format.
    """
    fix = "Run segtune.train again"
    recipe = read_typed(folder / "adapter" / "recipe.json", Recipe, fix=fix)
    path = folder / "history.jsonl"
    try:
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        steps = [record for record in records if record["kind"] == "train"]
        validations = [_validation(record) for record in records if record["kind"] == "valid"]
        return TrainingRun(
            recipe=recipe,
            steps=TypeAdapter(list[TrainStep]).validate_python(steps),
            validations=TypeAdapter(list[Validation]).validate_python(validations),
        )
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise DatasetError(
            f"cannot read the training run ({str(error).partition(chr(10))[0]})",
            file=path,
            fix=fix,
        ) from None


def write_training_page(
    path: Path, *, run: TrainingRun, valid: Split, base: Detections, best: Detections
) -> None:
    """Write the page of a run.

    Args:
        path: of the HTML file.
        run: the run.
        valid: the valid split, some of whose images are read.
        base: detections on these images before training.
        best: detections on these images by the best checkpoint.
    """
    result = run.recipe.result
    images = preview_images(valid)
    write_page(
        path,
        "training_page.html.j2",
        tone="good" if _has_improved(result) else "bad",
        status="Better" if _has_improved(result) else "Not better",
        heading=headline(run.recipe),
        effort=_effort(run.steps, result),
        run=run,
        best_epoch=result.best_epoch,
        loss=loss_curve([step.loss for step in run.steps]),
        first_loss=run.steps[0].loss,
        last_loss=run.steps[-1].loss,
        sheets=[
            _sheet("Before training", valid, images, base),
            _sheet(f"After epoch {result.best_epoch}", valid, images, best),
        ],
        settings=json.dumps(run.recipe.settings, indent=1),
    )


def headline(recipe: Recipe) -> str:
    """Which epoch was best, and whether training helped."""
    result, metric = recipe.result, recipe.settings["select_by"]
    comparison = "better" if _has_improved(result) else "NOT better"
    return (
        f"Epoch {result.best_epoch} was best: {metric} {result.best_score:.4f} on valid, "
        f"{comparison} than {result.base_score:.4f} before training"
    )


def _has_improved(result: Result) -> bool:
    return result.best_score > result.base_score


def _validation(record: dict[str, Any]) -> dict[str, Any]:
    named = {name: record[name] for name in ("epoch", "per_class")}
    named["false_alarms"] = record.get("false_alarms", {})
    scores = {n: value for n, value in record.items() if n not in ("kind", "step", *named)}
    return {**named, "scores": scores}


def _effort(steps: Sequence[TrainStep], result: Result) -> str:
    # Steps of the same number of images: seconds per image add up.
    seconds = sum(1 / step.images_per_second for step in steps)
    waiting = sum(step.data_wait_fraction / step.images_per_second for step in steps)
    return (
        f"{len(steps)} optimizer steps in {result.seconds / 60:.1f} minutes, "
        f"{len(steps) / seconds:.1f} images per second, {100 * waiting / seconds:.0f}% of the time "
        f"waiting for data, at most {max(step.peak_memory_gb for step in steps):.1f} GB of memory "
        "per process."
    )


def _sheet(title: str, valid: Split, images: Sequence[Image], detections: Detections) -> Sheet:
    sheet = contact_sheet(valid, images, detections)
    objects = sum(len(valid.annotations[image.id]) for image in images)
    return Sheet(
        title=title,
        image=data_uri(PilImage.fromarray(sheet)),
        description=f"{title}: {len(images)} validation images with {objects} objects and "
        f"{len(detections)} detections",
    )
