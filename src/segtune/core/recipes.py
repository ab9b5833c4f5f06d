"""What follows the model unless it is set: numbers that suit the miniature ruin the real one.

The learning rates and alphas of `tiny` were found on the demo (docs/benchmarks.md). Those of
`full` follow the fine-tuning configuration that Meta publishes with SAM 3, as far as it applies
to LoRA.
"""

from collections.abc import Mapping
from typing import Any

_TINY_LORA = {
    name: {"rank": 8, "alpha": 16.0}
    for name in ("text", "vision", "detr_encoder", "detr_decoder", "segmentation")
}
_FULL_LORA = {
    "text": {"rank": 16, "alpha": 32.0},
    # Only q and v: the encoder's activations dominate the memory.
    "vision": {"rank": 16, "alpha": 32.0, "targets": ["q", "v"]},
    "detr_encoder": {"rank": 16, "alpha": 32.0},
    "detr_decoder": {"rank": 16, "alpha": 32.0},
    "segmentation": {"rank": 16, "alpha": 32.0},
}
TRAIN: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "epochs": 8,
        "batch_size": 4,
        "micro_batch_size": 4,
        "activation_checkpointing": [],
        "min_scale": 1.0,
        "learning_rate": 2e-3,
        "warmup_steps": 10,
        "validate_every": 2,
        "lora": _TINY_LORA,
    },
    "full": {
        "epochs": 20,
        "batch_size": 8,
        "micro_batch_size": 1,
        "activation_checkpointing": "auto",
        "min_scale": 0.476,  # 480 of 1008 pixels
        "learning_rate": 1e-4,
        "warmup_steps": 20,
        "validate_every": 1,
        "lora": _FULL_LORA,
    },
}
# Things that the base model knows.
OOD_PROMPTS: Mapping[str, list[str]] = {
    "tiny": [
        *("shape", "red", "green", "blue", "yellow", "purple", "white"),
        *("circle", "square", "triangle", "star", "cross", "bar"),
    ],
    "full": ["person", "hand", "animal", "plant", "vehicle", "building", "furniture", "text"],
}


def with_recipe(config: Any) -> Any:
    """A whole config, with the recipe of its model where a setting is absent or null.

    In `train.lora` this holds for each setting of a component; a component that is `false` is
    left out. What is not a table is left for validation to refuse.
    """
    if not isinstance(config, Mapping):
        return config
    model = "full" if config.get("model") == "full" else "tiny"
    recipe = {"train": TRAIN[model], "evaluate": {"ood_prompts": OOD_PROMPTS[model]}}
    filled = _over(recipe, config)
    lora = filled["train"].get("lora") if isinstance(filled["train"], dict) else None
    if isinstance(lora, dict):
        left_out = (None, False, "false", "False")  # on the command line, values are text
        filled["train"]["lora"] = {name: v for name, v in lora.items() if v not in left_out}
    return filled


def with_train_recipe(model: str, settings: Any) -> Any:
    """The train section of a stage, with the model's recipe where a setting is absent or null.

    A `lora` that is given replaces the recipe's.
    """
    if not isinstance(settings, Mapping):
        return settings
    return {**TRAIN[model], **{key: v for key, v in settings.items() if v is not None}}


def _over(below: Any, above: Any) -> Any:
    """`above` in front of `below`, table by table."""
    if above is None:
        above = {} if isinstance(below, Mapping) else below
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    return {
        key: _over(below.get(key), above[key]) if key in above else below[key]
        for key in {**below, **above}
    }
