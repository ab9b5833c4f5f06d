"""Adapters on disk: PEFT's two files, and beside them the recipe that made them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segtune.atomic import atomic_path, write_json
from segtune.errors import AdapterError
from segtune.lora import (
    LoraSpec,
    inject_lora,
    load_lora_state_dict,
    peft_config,
    specs_from_json,
    specs_to_json,
)

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
RECIPE = "recipe.json"


def save_adapter(
    folder: Path,
    state: Mapping[str, Tensor],
    specs: Mapping[str, LoraSpec],
    base_model: str,
    recipe: Mapping[str, Any],
) -> None:
    """Write adapters that PEFT reads and that say how they were made.

    Args:
        folder: gets `adapter_model.safetensors`, `adapter_config.json`, `recipe.json`.
        state: from `lora.lora_state_dict`.
        specs: from `lora.inject_lora`: what was adapted.
        base_model: name of the adapted model.
        recipe: settings, data and result of the training.
    """
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(dict(state), temporary, metadata={"format": "pt"})
    write_json(folder / CONFIG, peft_config(specs, base_model))
    write_json(folder / RECIPE, {**recipe, "adapted": specs_to_json(specs)})


def attach_adapter(model: nn.Module, folder: Path) -> dict[str, Any]:
    """Adapt a base model as the recipe says and load the adapters, in place.

    Returns:
        The recipe.

    Raises:
        AdapterError: when a file is missing or damaged, or does not fit the model.
    """
    try:
        recipe: dict[str, Any] = json.loads((folder / RECIPE).read_text("utf-8"))
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise AdapterError(
            f"cannot be read ({error})", file=folder, remedy="Run the training again"
        ) from None
    inject_lora(model, specs_from_json(recipe["adapted"]))
    load_lora_state_dict(model, state)
    return recipe
