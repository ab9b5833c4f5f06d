"""How a finished run is used on new images: its model, prompts and confidence thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from segtune.core.errors import DatasetError
from segtune.core.typed_json import read_typed
from segtune.dataset.tiles import Tiles

Threshold = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class TrainedClass:
    """A class, its prompt, and the confidence threshold that the evaluation chose for it."""

    name: str
    prompt: str
    threshold: float


@dataclass(frozen=True)
class TrainedModel:
    """A model, as of a results folder."""

    weights: str  # see `load_base_model`
    name: str
    image_size: int | None  # side of the input in pixels, if it is not the model's own
    tiles: Tiles | None = None  # in which images are seen; None for whole images


@dataclass(frozen=True)
class _Recipe:
    model: str
    image_size: int | None
    tiles: Tiles | None = None


@dataclass(frozen=True)
class _AtThreshold:
    threshold: Threshold


@dataclass(frozen=True)
class _Calibration:
    thresholds: dict[str, _AtThreshold]


@dataclass(frozen=True)
class _Tuned:
    calibration: _Calibration


@dataclass(frozen=True)
class _Metrics:
    tuned: _Tuned


@dataclass(frozen=True)
class _Category:
    name: str
    prompt: str


@dataclass(frozen=True)
class _Split:
    categories: list[_Category]


def read_run(results: Path) -> tuple[TrainedModel, list[TrainedClass]]:
    """Read how to call the merged model of a results folder.

    Raises:
        DatasetError: when the run has not finished, or was made by another version.
    """
    fix = "Give the results folder of a workflow that has finished"
    recipe = read_typed(results / "train" / "adapter" / "recipe.json", _Recipe, fix)
    metrics = read_typed(results / "evaluate" / "metrics.json", _Metrics, fix)
    split = read_typed(results / "coco" / "test.json", _Split, fix)
    prompts = {category.name: category.prompt for category in split.categories}
    chosen = {name: at.threshold for name, at in metrics.tuned.calibration.thresholds.items()}
    return (
        TrainedModel(
            str(results / "merge" / "sam3.pt"), recipe.model, recipe.image_size, recipe.tiles
        ),
        _classes(prompts, chosen, file=results / "evaluate" / "metrics.json", fix=fix),
    )


def read_classes_beside(weights: Path) -> list[TrainedClass]:
    """Read `prompts.json` and `thresholds.json` of an exported model.

    Args:
        weights: the file that they lie beside.

    Raises:
        DatasetError: when they are not there or have another format.
    """
    fix = "Give --prompt, --run, or the weights in a folder of segtune.to_safetensors"
    prompts = read_typed(weights.with_name("prompts.json"), dict[str, str], fix)
    path = weights.with_name("thresholds.json")
    thresholds = read_typed(path, dict[str, Threshold], fix)
    return _classes(prompts, thresholds, file=path, fix=fix)


def _classes(
    prompts: Mapping[str, str], thresholds: Mapping[str, float], *, file: Path, fix: str
) -> list[TrainedClass]:
    if prompts.keys() != thresholds.keys():
        raise DatasetError("thresholds for other classes than have prompts", file=file, fix=fix)
    return [TrainedClass(name, prompt, thresholds[name]) for name, prompt in prompts.items()]
