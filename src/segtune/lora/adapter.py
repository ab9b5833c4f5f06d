"""Adapters on disk: PEFT's two files, and the recipe that made them."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segtune.core.atomic import atomic_path, write_json
from segtune.core.config import RENAMED
from segtune.core.errors import AdapterError
from segtune.lora.inject import inject_lora
from segtune.lora.layers import LoraSpec
from segtune.lora.peft_format import from_peft, peft_config
from segtune.lora.state import load_lora_state_dict

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
RECIPE = "recipe.json"


def save_adapter(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    specs: Mapping[str, LoraSpec],
    base_model: str,
    recipe: Mapping[str, Any],
) -> None:
    """Write an adapter that PEFT can read, and a record of how it was made.

    Args:
        folder: gets `adapter_model.safetensors`, `adapter_config.json` and `recipe.json`.
        state: from `lora_state_dict`.
        specs: what was adapted, from `inject_lora`.
        base_model: name of the adapted model.
        recipe: settings, data and result of the training.
    """
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(dict(state), temporary, metadata={"format": "pt"})
    write_json(folder / CONFIG, peft_config(specs, base_model))
    write_json(folder / RECIPE, {**recipe, "adapted": specs_to_json(specs)})


def attach_adapter(model: nn.Module, folder: Path) -> dict[str, Any] | None:
    """Inject an adapter from disk into a base model, in place.

    Returns:
        The recipe, or None for an adapter without one, which PEFT has trained.

    Raises:
        AdapterError: when a file is missing or damaged, or does not fit the model.
    """
    own = (folder / RECIPE).exists()
    try:
        described: dict[str, Any] = json.loads((folder / (RECIPE if own else CONFIG)).read_text())
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError) as error:
        raise AdapterError(
            f"cannot read the adapter ({error})", file=folder, fix="Run the training again"
        ) from None
    if own:
        specs = _recipe_specs(described, folder / RECIPE)
    else:
        named, state = from_peft(model, described, state)
        specs = {re.escape(name): spec for name, spec in named.items()}
    inject_lora(model, specs)
    load_lora_state_dict(model, state)
    return described if own else None


def _recipe_specs(recipe: Mapping[str, Any], path: Path) -> dict[str, LoraSpec]:
    try:
        return specs_from_json(recipe["adapted"])
    except (KeyError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"not the recipe of an adapter ({error!r})", file=path, fix="Run the training again"
        ) from None


def specs_to_json(specs: Mapping[str, LoraSpec]) -> dict[str, dict[str, Any]]:
    """What was adapted, as plain values; `specs_from_json` reads it back."""
    return {name: asdict(spec) for name, spec in specs.items()}


def specs_from_json(values: Mapping[str, Mapping[str, Any]]) -> dict[str, LoraSpec]:
    """Exact patterns and specs of a recipe, ready for `inject_lora`.

    Keys of earlier versions are understood.
    """
    return {re.escape(name): _spec_from_json(spec) for name, spec in values.items()}


def _spec_from_json(values: Mapping[str, Any]) -> LoraSpec:
    named = {RENAMED.get(key, key): value for key, value in values.items()}
    return LoraSpec(**{**named, "projections": tuple(named["projections"])})
