"""Conversion between PEFT's files and segtune's adapters.

PEFT (0.21) gives each module one A and one B of one rank. In attention it adapts the whole
input projection and the output projection, whose update it adds twice, both in the forward
pass and when merging. An adapter is read so that it computes what PEFT computes.
"""

import string
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError
from torch import Tensor, nn

from segtune.core.errors import AdapterError, shown
from segtune.lora.adapter_shapes import stacked_blocks
from segtune.lora.layers import FUSED, LoraSpec
from segtune.lora.state import peft_keys, peft_modules, peft_out_proj

T = TypeVar("T")
PLAIN = {*string.ascii_letters, *string.digits, *"_.-"}

# Features that change the function beyond B A x.
UNSUPPORTED = (
    *("use_dora", "modules_to_save", "lora_bias", "fan_in_fan_out", "target_parameters"),
    *("trainable_token_indices", "layer_replication", "alora_invocation_tokens", "arrow_config"),
    *("use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "velora_config"),
)


class _Settings(BaseModel):
    """What is read of PEFT's config."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    r: int | None = None
    rank_pattern: dict[str, int] | None = Field(None, max_length=10_000)
    lora_alpha: PositiveFloat
    alpha_pattern: dict[str, PositiveFloat] | None = Field(None, max_length=10_000)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    use_rslora: bool | None = None


def peft_config(specs: Mapping[str, LoraSpec], base_model: str) -> dict[str, Any]:
    """The `adapter_config.json` with which PEFT reads the output of `lora_state_dict`.

    Args:
        specs: as returned by `inject_lora`.
        base_model: name of the model that was adapted.
    """
    ranks = {name: spec.rank * stacked_blocks(spec) for name, spec in specs.items()}
    # PEFT scales by alpha / rank, with the stacked rank.
    alphas = {name: spec.scale * ranks[name] for name, spec in specs.items()}
    first = next(iter(specs))
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": ranks[first],
        "lora_alpha": alphas[first],
        "lora_dropout": specs[first].dropout,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "target_modules": sorted(specs),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "task_type": None,
    }


def peft_ranks(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The rank of each module that a file of PEFT's tensors adapts, by module name."""
    first = {name: shapes.get(peft_keys(name)[0], ()) for name in peft_modules(shapes)}
    return {name: max(1, shape[0]) if shape else 1 for name, shape in first.items()}


def from_peft(
    model: nn.Module, config: Mapping[str, Any], *, state: Mapping[str, Tensor], file: Path
) -> tuple[dict[str, LoraSpec], dict[str, Tensor]]:
    """An adapter trained with PEFT, for `inject_lora` and `load_lora_state_dict`.

    Args:
        model: the base model, which has the adapted modules.
        config: PEFT's `adapter_config.json`, of plain LoRA.
        state: PEFT's `adapter_model.safetensors`.
        file: of the config, for messages.

    Returns:
        Specs by exact module name, and the adapters in the stacked layout.

    Raises:
        AdapterError: for a config that is damaged.
    """
    settings = _settings(config, file)
    specs: dict[str, LoraSpec] = {}
    converted = dict(state)
    for name in peft_modules(state):
        rank = len(state[peft_keys(name)[0]])
        specs[name] = spec = _spec(settings, name, rank)
        if isinstance(model.get_submodule(name), nn.MultiheadAttention):
            specs[name] = replace(spec, projections=(*FUSED, "out"))
            converted |= _attention(name, state)
    return specs, converted


def require_plain_lora(config: Mapping[str, Any], file: Path) -> None:
    """Refuse what PEFT's `adapter_config.json` has beyond LoRA.

    Raises:
        AdapterError: naming the unsupported features.
    """
    found = [name for name in UNSUPPORTED if config.get(name)]
    found += ["bias"] if config.get("bias", "none") != "none" else []
    if config.get("peft_type") != "LORA" or found:
        kind = str(config.get("peft_type"))[:40]
        raise AdapterError(
            f"an adapter of type {' with '.join([kind, *([', '.join(found)] if found else [])])} "
            "is not supported",
            file=file,
            fix="Use plain LoRA on linear layers and attention",
        )


def require_ranks(config: Mapping[str, Any], ranks: Mapping[str, int], file: Path) -> None:
    """Check that PEFT's `adapter_config.json` has the ranks of the tensors.

    Args:
        config: its content.
        ranks: of each adapted module, as in the tensors.
        file: of the config, for messages.

    Raises:
        AdapterError: naming a module whose rank is another, or for a config that is damaged.
    """
    settings = _settings(config, file)
    for name, rank in ranks.items():
        stated = _value_for(name, settings.rank_pattern or {}, settings.r)
        if stated not in (None, rank):
            raise AdapterError(
                f"rank {shown(stated)}, and the tensors have {rank}",
                file=file,
                record=name,
                fix="Use the config that was saved with the tensors",
            )


def _settings(config: Mapping[str, Any], file: Path) -> _Settings:
    try:
        settings = _Settings.model_validate(config)
        for name, patterns in (
            ("alpha_pattern", settings.alpha_pattern),
            ("rank_pattern", settings.rank_pattern),
        ):
            for pattern in patterns or {}:
                _literal(pattern, name)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{shown(first['loc'])}: {first['msg']}"
    except ValueError as error:
        problem = str(error)
    else:
        return settings
    raise AdapterError(
        f"not the config of an adapter ({problem})",
        file=file,
        fix="Correct it, or save the adapter with PEFT again",
    )


def _spec(settings: _Settings, name: str, rank: int) -> LoraSpec:
    return LoraSpec(
        rank=rank,
        alpha=_value_for(name, settings.alpha_pattern or {}, settings.lora_alpha),
        dropout=settings.lora_dropout,
        rank_stabilized=bool(settings.use_rslora),
    )


def _value_for(name: str, patterns: Mapping[str, T], default: T) -> T:
    """The value of the first pattern by which PEFT finds a module."""
    found = (value for pattern, value in patterns.items() if _is_named(name, _literal(pattern)))
    return next(found, default)


def _literal(pattern: str, setting: str = "") -> str:
    """A pattern without its escapes, where it has no other sign than dots.

    No regular expression of a file is run: some take forever.

    Raises:
        ValueError: for any other pattern.
    """
    plain = pattern.replace(r"\.", ".")
    if not plain or not set(plain) <= PLAIN:
        raise ValueError(f"{setting} {shown(pattern)} is not the name of a module")
    return plain


def _is_named(name: str, plain: str) -> bool:
    """Whether PEFT finds a module by this pattern: at its end, after a dot or the beginning."""
    return name == plain or name.endswith(f".{plain}")


def _attention(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One A for queries, keys and values, and the rows of one B, as three blocks each."""
    down, up = peft_keys(name)
    out_down, out_up = peft_keys(peft_out_proj(name))
    return {
        down: torch.cat([state[down]] * len(FUSED)),
        up: torch.block_diag(*state[up].chunk(len(FUSED))),
        out_down: _padded(state[out_down], len(FUSED), dim=0),
        out_up: _padded(2 * state[out_up], len(FUSED), dim=1),
    }


def _padded(matrix: Tensor, times: int, *, dim: int) -> Tensor:
    """Grown to `times` its size with zeros."""
    rest = torch.zeros_like(torch.cat([matrix] * (times - 1), dim))
    return torch.cat([matrix, rest], dim)
