"""How a finished run is used on new images: its model, prompts and confidence thresholds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from segtune.core.errors import ConfigError, DatasetError
from segtune.core.typed_json import read_typed
from segtune.dataset.prompts import fields_of
from segtune.dataset.tiles import Tiles

Threshold = Annotated[float, Field(ge=0, le=1)]
FINISHED = "Give the results folder of a workflow that has finished"


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
class _PerClass:
    per_class: dict[str, float | None]


@dataclass(frozen=True)
class _Scored:
    box: _PerClass
    mask: _PerClass | None


@dataclass(frozen=True)
class _ScoredMetrics:
    kind: Literal["box", "mask"]
    tuned: _Scored


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
    fix = FINISHED
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


def read_class_scores(results: Path) -> dict[str, float | None]:
    """The fine-tuned model's AP per class on the test split: of masks, where there are some.

    Raises:
        DatasetError: when the run has not finished, or was made by another version.
    """
    found = read_typed(results / "evaluate" / "metrics.json", _ScoredMetrics, FINISHED)
    scored = found.tuned.mask if found.kind == "mask" else None
    return (scored or found.tuned.box).per_class


def require_plain_prompts(classes: Sequence[TrainedClass]) -> None:
    """Refuse prompts that need more than an image.

    Raises:
        ConfigError: for one with fields.
    """
    for prompt in (c.prompt for c in classes):
        if fields_of(prompt):
            raise ConfigError(
                f"the prompt {prompt!r} has fields, for which a folder of images has no values",
                fix="Give prompts without fields as --prompt",
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
