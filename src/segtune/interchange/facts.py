"""What a model card states: how the model was trained, on what, and how well it does."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import FiniteFloat

from segtune.core.errors import DatasetError, WeightsError
from segtune.core.fingerprints import file_digest
from segtune.core.typed_json import read_typed
from segtune.dataset.coco import read_split
from segtune.evaluation.metrics import Metrics, read_metrics
from segtune.interchange.sources import Sources
from segtune.lora.recipe import Recipe, read_base_recipe


@dataclass(frozen=True)
class Merge:
    """The part of merge's `parity.json` that tells which model was merged, and how."""

    sha256: str  # of the weights
    strength: FiniteFloat = 1.0  # by which the update was multiplied


@dataclass(frozen=True)
class Facts:
    """What a model card states."""

    base: str  # name of the base model
    image_size: int  # side of the input, in pixels
    strength: float  # by which the update was multiplied
    recipe: Recipe | None  # None for an adapter that PEFT has trained
    metrics: Metrics
    prompts: Mapping[str, str]  # by class, perhaps with {fields}

    @property
    def thresholds(self) -> dict[str, float]:
        """The confidence threshold of each class."""
        chosen = self.metrics.tuned.calibration.thresholds
        return {name: chosen[name].threshold for name in self.prompts}


def read_facts(sources: Sources, *, base: str, image_size: int) -> Facts:
    """Read what is known of a model.

    Args:
        sources: the files.
        base: name of the base model.
        image_size: side of the input, in pixels.

    Raises:
        AdapterError: when the recipe of the adapter cannot be read.
        DatasetError: when another file cannot be read, or is about other classes.
        WeightsError: when the weights are not those that were merged.
    """
    measured = read_metrics(sources.metrics)
    prompts = {c.name: c.prompt for c in read_split(sources.coco).categories}
    if measured.tuned.calibration.thresholds.keys() != prompts.keys():
        raise DatasetError(
            "these metrics were computed on other classes",
            file=sources.metrics,
            fix=f"Give the dataset that was evaluated instead of {sources.coco}",
        )
    return Facts(
        base=base,
        image_size=image_size,
        strength=_read_merge(sources).strength,
        recipe=read_base_recipe(sources.adapter),
        metrics=measured,
        prompts=prompts,
    )


def _read_merge(sources: Sources) -> Merge:
    merge = read_typed(sources.parity, Merge, fix="Run segtune.merge again")
    if not merge.sha256.startswith(file_digest(sources.weights, WeightsError, "Check `weights`")):
        raise WeightsError(
            f"not the weights that {sources.parity} is about",
            file=sources.weights,
            fix="Run segtune.merge again, or give the parity.json beside these weights",
        )
    return merge
