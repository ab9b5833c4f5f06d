"""How many negative prompts a training has, for the log and the page of the run."""

from collections.abc import Sequence
from dataclasses import dataclass

from segtune.core.config import TrainSettings
from segtune.core.console import log_line
from segtune.core.errors import listed
from segtune.training.ood_negatives import OodNegatives
from segtune.training.prompted_images import PromptedImages

MAX_LISTED = 10  # nouns that are left out


@dataclass(frozen=True)
class NegativeCounts:
    """Negative prompts in an epoch."""

    absent: int  # absent classes and extra negatives
    ood: int  # out-of-distribution
    beside_objects: int  # of all of these, in images that show something


def negatives_per_epoch(dataset: PromptedImages, repeat_factors: Sequence[float]) -> NegativeCounts:
    """Negative prompts in an epoch; with repetitions of images, the expected number.

    Args:
        dataset: the training split.
        repeat_factors: how often each image is seen.
    """
    absent = ood = beside_objects = 0.0
    for image, factor in zip(dataset.images, repeat_factors, strict=True):
        counts = [factor * count for count in dataset.count_negatives(image)]
        absent, ood = absent + counts[0], ood + counts[1]
        beside_objects += sum(counts) if dataset.present(image) else 0
    return NegativeCounts(round(absent), round(ood), round(beside_objects))


def describe_negatives(
    counts: NegativeCounts, nouns: OodNegatives, settings: TrainSettings
) -> None:
    """Print how many negatives there are, and warn where the prompt makes no difference."""
    log_line(
        f"negative prompts per epoch: {counts.absent} of absent classes, {counts.ood} "
        f"out-of-distribution ({len(nouns.trained)} nouns)"
    )
    if nouns.left_out:
        names = [f"{noun} ({name})" for noun, name in nouns.left_out.items()]
        log_line(f"nouns left out because of a class or prompt: {listed(names, MAX_LISTED)}")
    if not counts.beside_objects:
        log_line(
            "WARNING: images that show something are not prompted with anything else, so that "
            "the model learns to detect its classes whatever it is prompted with. "
            + _how_to_have_some(settings)
        )


def _how_to_have_some(settings: TrainSettings) -> str:
    if not settings.max_negatives:
        return "Set train.max_negatives"
    if not settings.min_negatives:
        return "Set train.min_negatives"
    return "List things that your images do not show in train.ood_negatives"
