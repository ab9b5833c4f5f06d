"""Adapters on disk: PEFT's two files, and the recipe that made them."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segtune.core.atomic import atomic_path, write_json
from segtune.core.errors import MAX_SHOWN, AdapterError, shown
from segtune.core.fingerprints import file_digest
from segtune.core.foreign import read_json, reason, require_file
from segtune.core.setting_problems import RENAMED
from segtune.lora.adapter_shapes import (
    Shapes,
    read_shapes,
    require_fitting,
    stacked_blocks,
)
from segtune.lora.inject import inject_lora
from segtune.lora.layers import LoraSpec
from segtune.lora.peft_format import (
    from_peft,
    peft_config,
    peft_ranks,
    require_plain_lora,
    require_ranks,
)
from segtune.lora.state import load_lora_state_dict

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
RECIPE = "recipe.json"
DIGEST = "adapter_sha256"  # in the recipe
FIX = "Run the training again"
T = TypeVar("T")


class _Spec(BaseModel):
    """A `LoraSpec` in a recipe."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    projections: tuple[Literal["q", "k", "v", "out"], ...] = Field(strict=False)
    rank_stabilized: bool = False


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
        folder: gets `adapter_model.safetensors`, `adapter_config.json` and `recipe.json`, which
            has a checksum of the first.
        state: from `lora_state_dict`.
        specs: what was adapted, from `inject_lora`.
        base_model: name of the adapted model.
        recipe: settings, data and result of the training.
    """
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(dict(state), temporary, metadata={"format": "pt"})
    write_json(folder / CONFIG, peft_config(specs, base_model))
    written = {"adapted": specs_to_json(specs), DIGEST: _digest(folder / WEIGHTS)}
    write_json(folder / RECIPE, {**recipe, **written})


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """The recipe of an adapter; None for an adapter without one, which PEFT has trained.

    Raises:
        AdapterError: when it cannot be read.
    """
    path = folder / RECIPE
    return _read_object(path) if os.path.lexists(path) else None


def attach_adapter(model: nn.Module, folder: Path) -> dict[str, Any] | None:
    """Inject an adapter from disk into a base model, in place.

    Returns:
        The recipe, or None for an adapter without one, which PEFT has trained.

    Raises:
        AdapterError: when a file is missing or damaged, or does not fit the model.
    """
    recipe = read_recipe(folder)
    specs, state = _read(model, folder, recipe)
    try:
        inject_lora(model, {re.escape(name): spec for name, spec in specs.items()})
        load_lora_state_dict(model, state)
    except AdapterError as error:  # which knows no files
        problem, record, fix = error.problem, error.record, error.fix or FIX
        raise AdapterError(problem, file=folder, record=record, fix=fix) from None
    return recipe


def specs_to_json(specs: Mapping[str, LoraSpec]) -> dict[str, dict[str, Any]]:
    """What was adapted, as plain values; `specs_from_json` reads it back."""
    return {name: asdict(spec) for name, spec in specs.items()}


def specs_from_json(values: Any) -> dict[str, LoraSpec]:
    """The specs of a recipe by module name; keys of earlier versions are understood.

    Raises:
        ValueError: naming the module and what is wrong.
    """
    if not isinstance(values, Mapping) or not values:
        raise ValueError("`adapted` names no modules")
    return {name: _spec_from_json(name, spec) for name, spec in values.items()}


def _read(
    model: nn.Module, folder: Path, recipe: Mapping[str, Any] | None
) -> tuple[dict[str, LoraSpec], dict[str, Tensor]]:
    """Specs by module name and the tensors, once they are known to fit the model."""
    tensors = folder / WEIGHTS
    if recipe is None:
        config = _read_object(folder / CONFIG)
        # What else PEFT trains has tensors that would only seem not to fit.
        require_plain_lora(config, folder / CONFIG)
        shapes = _shapes(tensors)
        require_fitting(model, peft_ranks(shapes), shapes, tensors)
        require_ranks(config, peft_ranks(shapes), folder / CONFIG)
        return from_peft(model, config, state=_load(tensors), file=folder / CONFIG)
    shapes = _shapes(tensors)
    specs = _recipe_specs(recipe, folder / RECIPE)
    ranks = {name: spec.rank * stacked_blocks(spec) for name, spec in specs.items()}
    require_fitting(model, ranks, shapes, tensors)
    if os.path.lexists(folder / CONFIG):  # which only PEFT reads
        require_ranks(_read_object(folder / CONFIG), ranks, folder / CONFIG)
    _require_digest(recipe, tensors)
    return specs, _load(tensors)


def _spec_from_json(name: str, values: Any) -> LoraSpec:
    if isinstance(values, Mapping):
        values = {RENAMED.get(key, key): value for key, value in values.items()}
    try:
        spec = _Spec.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{shown(name)}: {shown(first['loc'])}: {first['msg']}") from None
    if len(set(spec.projections)) < len(spec.projections):
        raise ValueError(f"{shown(name)}: a projection is named twice")
    return LoraSpec(**spec.model_dump())


def _recipe_specs(recipe: Mapping[str, Any], path: Path) -> dict[str, LoraSpec]:
    try:
        return specs_from_json(recipe.get("adapted"))
    except ValueError as error:
        raise AdapterError(f"not the recipe of an adapter ({error})", file=path, fix=FIX) from None


def _read_object(path: Path) -> dict[str, Any]:
    values = read_json(path, AdapterError, FIX, what="adapter")
    if not isinstance(values, dict):
        raise AdapterError("cannot read the adapter (not a JSON object)", file=path, fix=FIX)
    return values


def _shapes(path: Path) -> Shapes:
    return _translated(path, read_shapes)


def _load(path: Path) -> dict[str, Tensor]:
    state = _translated(path, load_file)
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise AdapterError("NaN or infinity", file=path, record=key[:MAX_SHOWN], fix=FIX)
    return state


def _translated(path: Path, read: Callable[[Path], T]) -> T:
    try:
        require_file(path)
        return read(path)
    except AdapterError:
        raise
    except Exception as error:
        # Foreign bytes: what safetensors raises for them is not limited to its own error.
        raise AdapterError(
            f"cannot read the adapter ({reason(error)})", file=path, fix=FIX
        ) from None


def _require_digest(recipe: Mapping[str, Any], path: Path) -> None:
    # Adapters of earlier versions have no checksum.
    if DIGEST in recipe and recipe[DIGEST] != _digest(path):
        raise AdapterError("damaged: its checksum is not that of the recipe", file=path, fix=FIX)


def _digest(path: Path) -> str:
    return file_digest(path, AdapterError, FIX)
