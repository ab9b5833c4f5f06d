"""Conversion between PEFT's files and segtune's adapters.

PEFT (0.21) gives each module one A and one B of one rank. In attention it adapts the whole
input projection and the output projection, whose update it adds twice, both in the forward
pass and when merging. An adapter is read so that it computes what PEFT computes.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from segtune.core.errors import AdapterError
from segtune.lora.layers import FUSED, LoraSpec
from segtune.lora.state import peft_keys, peft_modules, peft_out_proj

# Features that change the function beyond B A x.
UNSUPPORTED = (
    *("use_dora", "modules_to_save", "lora_bias", "fan_in_fan_out", "target_parameters"),
    *("trainable_token_indices", "layer_replication", "alora_invocation_tokens", "arrow_config"),
    *("use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "velora_config"),
)


def peft_config(specs: Mapping[str, LoraSpec], base_model: str) -> dict[str, Any]:
    """The `adapter_config.json` with which PEFT reads the output of `lora_state_dict`.

    Args:
        specs: as returned by `inject_lora`.
        base_model: name of the model that was adapted.
    """
    ranks = {name: spec.rank * _stacked_blocks(spec) for name, spec in specs.items()}
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


def from_peft(
    model: nn.Module, config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[dict[str, LoraSpec], dict[str, Tensor]]:
    """An adapter trained with PEFT, for `inject_lora` and `load_lora_state_dict`.

    Args:
        model: the base model.
        config: PEFT's `adapter_config.json`.
        state: PEFT's `adapter_model.safetensors`.

    Returns:
        Specs by exact module name, and the adapters in the stacked layout.

    Raises:
        AdapterError: for unsupported features of PEFT, or a module that the model lacks.
    """
    _require_plain_lora(config)
    specs: dict[str, LoraSpec] = {}
    converted = dict(state)
    for name in peft_modules(state):
        specs[name] = spec = _spec(config, name, state)
        if isinstance(_module(model, name), nn.MultiheadAttention):
            specs[name] = replace(spec, projections=(*FUSED, "out"))
            converted |= _attention(name, state)
    return specs, converted


def _require_plain_lora(config: Mapping[str, Any]) -> None:
    found = [name for name in UNSUPPORTED if config.get(name)]
    found += ["bias"] if config.get("bias", "none") != "none" else []
    if config.get("peft_type") != "LORA" or found:
        kind = " with ".join([str(config.get("peft_type")), *([", ".join(found)] if found else [])])
        raise AdapterError(
            f"an adapter of type {kind} is not supported",
            file="adapter_config.json",
            fix="Use plain LoRA on linear layers and attention",
        )


def _spec(config: Mapping[str, Any], name: str, state: Mapping[str, Tensor]) -> LoraSpec:
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):  # as PEFT looks it up
            alpha = float(value)
            break
    down, _ = peft_keys(name)
    return LoraSpec(
        rank=len(state[down]),
        alpha=alpha,
        dropout=float(config.get("lora_dropout", 0.0)),
        rank_stabilized=bool(config.get("use_rslora")),
    )


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise AdapterError(
            "the model has no such module",
            record=name,
            fix="Choose the base model that the adapter was trained on",
        ) from None


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


def _stacked_blocks(spec: LoraSpec) -> int:
    return max(1, len(set(spec.projections) & set(FUSED)))
