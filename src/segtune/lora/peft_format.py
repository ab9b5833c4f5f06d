"""Between PEFT's files and the adapters here.

PEFT (0.21) gives each module one A and one B at one rank. Of attention it adapts the whole
input projection, and the output projection whose update it adds twice, in the forward pass
and in merging. Reading an adapter gives the function that PEFT computes.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from segtune.core.errors import AdapterError
from segtune.lora.layers import FUSED, LoraSpec
from segtune.lora.state import PEFT_PREFIX

OUT_PROJ = ".base_layer.out_proj"
# What changes the function beyond B A x, and is not read here.
UNREAD = (
    *("use_dora", "modules_to_save", "lora_bias", "fan_in_fan_out", "target_parameters"),
    *("trainable_token_indices", "layer_replication", "alora_invocation_tokens", "arrow_config"),
    *("use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "velora_config"),
)


def peft_config(specs: Mapping[str, LoraSpec], base_model: str) -> dict[str, Any]:
    """The `adapter_config.json` with which PEFT reads `lora.lora_state_dict`'s output.

    Args:
        specs: as returned by `lora.inject_lora`.
        base_model: name of the model that was adapted.
    """
    ranks = {name: spec.rank * _stacked_blocks(spec) for name, spec in specs.items()}
    # PEFT scales by alpha / rank, of the stacked rank.
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
    """What PEFT has trained, for `lora.inject_lora` and `lora.load_lora_state_dict`.

    Args:
        model: the base model.
        config: PEFT's `adapter_config.json`.
        state: PEFT's `adapter_model.safetensors`.

    Returns:
        Specs by exact module name, and the adapters in the stacked layout.

    Raises:
        AdapterError: for features of PEFT that are not read here, or a module that the
            model does not have.
    """
    _require_plain_lora(config)
    specs: dict[str, LoraSpec] = {}
    converted = dict(state)
    names = {name.partition(".lora_")[0].removeprefix(PEFT_PREFIX) for name in state}
    for name in sorted(name for name in names if not name.endswith(OUT_PROJ)):
        specs[name] = spec = _spec(config, name, state)
        if isinstance(_module(model, name), nn.MultiheadAttention):
            specs[name] = replace(spec, projections=(*FUSED, "out"))
            converted |= _attention(name, state)
    return specs, converted


def _require_plain_lora(config: Mapping[str, Any]) -> None:
    found = [name for name in UNREAD if config.get(name)]
    found += ["bias"] if config.get("bias", "none") != "none" else []
    if config.get("peft_type") != "LORA" or found:
        kind = " with ".join([str(config.get("peft_type")), *([", ".join(found)] if found else [])])
        raise AdapterError(
            f"an adapter of the kind {kind}",
            file="adapter_config.json",
            fix="Only plain LoRA on linears and attention is read",
        )


def _spec(config: Mapping[str, Any], name: str, state: Mapping[str, Tensor]) -> LoraSpec:
    rank = len(state[f"{PEFT_PREFIX}{name}.lora_A.weight"])
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):  # as PEFT looks it up
            alpha = float(value)
            break
    rslora = bool(config.get("use_rslora"))
    return LoraSpec(rank, alpha, float(config.get("lora_dropout", 0.0)), (), rslora)


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
    """One A for queries, keys and values, and rows of one B, as three blocks each."""
    prefix, out = f"{PEFT_PREFIX}{name}", f"{PEFT_PREFIX}{name}{OUT_PROJ}"
    down, up = state[f"{prefix}.lora_A.weight"], state[f"{prefix}.lora_B.weight"]
    return {
        f"{prefix}.lora_A.weight": torch.cat([down] * len(FUSED)),
        f"{prefix}.lora_B.weight": torch.block_diag(*up.chunk(len(FUSED))),
        f"{out}.lora_A.weight": _padded(state[f"{out}.lora_A.weight"], len(FUSED), 0),
        f"{out}.lora_B.weight": _padded(2 * state[f"{out}.lora_B.weight"], len(FUSED), 1),
    }


def _padded(matrix: Tensor, times: int, dim: int) -> Tensor:
    rest = torch.zeros_like(torch.cat([matrix] * (times - 1), dim))
    return torch.cat([matrix, rest], dim)


def _stacked_blocks(spec: LoraSpec) -> int:
    return max(1, len(set(spec.projections) & set(FUSED)))
