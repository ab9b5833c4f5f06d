"""The largest step first, and which settings would help when it does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest

from segtune.core.config import CHECKPOINTED, Checkpointed
from segtune.dataset.coco import Split, read_split
from segtune.training.augment import Augmentation
from segtune.training.preflight import Trial, fewest_checkpoints, largest_batch, suggestions
from segtune.training.prompted_images import PromptedImages
from tests.converted import write_converted


def prompted(split: Split) -> PromptedImages:
    return PromptedImages(
        split,
        image_size=96,
        max_negatives=5,
        extra_negatives=("unicorn",),
        augmentation=Augmentation(),
        seed=0,
    )


def test_the_largest_batch_holds_the_images_with_the_most_prompts(tmp_path: Path) -> None:
    split = read_split(write_converted(tmp_path) / "train.json")
    data = prompted(split)
    batch = largest_batch(data, images=2, negatives=5)
    # Four prompts each: three classes and the unicorn; one of the prompts has an object.
    assert batch.images.shape == (2, 3, 96, 96)
    assert len(batch.num_boxes) == 8
    assert int(batch.num_boxes.sum()) == 2
    without = largest_batch(data, images=1, negatives=0)
    assert without.num_boxes.tolist() == [1]


def test_prompts_that_show_something_count_more_than_objects(tmp_path: Path) -> None:
    split = read_split(write_converted(tmp_path) / "train.json")
    disc, square = split.annotations[1][0], split.annotations[2][0]
    # Both images have three prompts.
    many, varied = (disc,) * 30, (square, replace(disc, image_id=2))
    split = replace(split, annotations={**split.annotations, 1: many, 2: varied})
    batch = largest_batch(prompted(split), images=1, negatives=3)
    assert sorted(batch.num_boxes.tolist()) == [0, 0, 1, 1]
    split = replace(split, annotations={**split.annotations, 2: (square,)})
    batch = largest_batch(prompted(split), images=1, negatives=3)
    assert sorted(batch.num_boxes.tolist()) == [0, 0, 0, 30]


def gb(trial: Trial) -> float | None:
    """A machine of 24 GB: 4 GB for weights, 6 per image with vision adapted, 1 per prompt.

    And a quarter for each mask whose loss is computed at once.
    """
    per_image = 1 if "vision" in trial.frozen else 6
    total = 4.0 + trial.images * (per_image + 1 + trial.negatives) + trial.masks / 4
    return total if total <= 24 else None


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        (
            Trial(images=2, negatives=5, masks=4),
            "train.micro_batch_size: 1 (17.0 GB); train.masks_per_chunk: 1 (still too much); "
            "train.max_negatives: 1 (21.0 GB); no `vision` in train.lora (19.0 GB); "
            "all of these (7.2 GB)",
        ),
        (
            Trial(images=8, negatives=5, masks=1),
            "train.micro_batch_size: 1 (16.2 GB); train.max_negatives: 1 (still too much); "
            "no `vision` in train.lora (still too much); all of these (7.2 GB)",
        ),
        (
            Trial(images=1, negatives=1, masks=1),
            "with each change: no `vision` in train.lora (7.2 GB)",
        ),
    ],
)
def test_every_setting_that_would_help_is_listed_with_its_memory(
    failed: Trial, expected: str
) -> None:
    assert expected in suggestions(failed, ("vision", "detr_decoder"), gb)


def test_settings_at_their_minimum_are_not_listed() -> None:
    advice = suggestions(Trial(images=4, negatives=0, masks=1), ("detr_decoder",), gb)
    assert advice.endswith(": train.micro_batch_size: 1 (11.2 GB)")


def memory_without(trial: Trial) -> float | None:
    """30 GB with nothing checkpointed, and less with each component."""
    saved: dict[str, float] = {"detr_encoder": 8, "segmentation": 2, "vision": 10}
    total = 30 - sum(saved.get(component, 1.0) for component in trial.checkpointed)
    return total if total <= 24 else None


@pytest.mark.parametrize(
    ("budget_gb", "expected"),
    [
        (40.0, ("detr_encoder",)),  # nothing checkpointed does not even run
        (21.0, ("detr_encoder", "segmentation")),
        (10.0, ("detr_encoder", "segmentation", "vision")),
        (2.0, CHECKPOINTED),
    ],
)
def test_as_few_components_are_checkpointed_as_fit(
    budget_gb: float, expected: tuple[Checkpointed, ...]
) -> None:
    all_of_them = Trial(images=1, negatives=5, masks=8)
    found, peak = fewest_checkpoints(all_of_them, 8.0, measure=memory_without, budget_gb=budget_gb)
    assert found.checkpointed == expected
    assert peak == (8.0 if expected == CHECKPOINTED else memory_without(found))


def test_checkpointing_everything_is_advised_where_it_was_not_tried() -> None:
    advice = suggestions(Trial(images=1, negatives=1, masks=1, checkpointed=()), ("vision",), gb)
    assert "train.activation_checkpointing: auto (12.2 GB)" in advice
