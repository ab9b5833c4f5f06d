"""Adapters as a state dict in PEFT's layout."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segtune.core.errors import AdapterError
from segtune.lora.inject import adapted_modules
from segtune.lora.layers import FUSED, LoraLinear, LoraModule, LoraMultiheadAttention

PEFT_PREFIX = "base_model.model."


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapters in PEFT's layout: one `lora_A.weight` and `lora_B.weight` per module.

    A module whose q, k and v are adapted apart has them stacked: A (n * rank, in) and
    B (out, n * rank) with the blocks on their own rows and columns.
    """
    state: dict[str, Tensor] = {}
    for name, module in adapted_modules(model):
        for key, (down, up) in _peft_pairs(name, module).items():
            state[f"{PEFT_PREFIX}{key}.lora_A.weight"] = down.detach().cpu().clone()
            state[f"{PEFT_PREFIX}{key}.lora_B.weight"] = up.detach().cpu().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load adapters in PEFT's layout into a model that `inject_lora` has prepared.

    Raises:
        AdapterError: listing every missing and unexpected key, or a shape that differs.
    """
    expected = lora_state_dict(model)
    missing, unexpected = sorted(expected.keys() - state), sorted(state.keys() - expected)
    if missing or unexpected:
        raise AdapterError(
            f"the adapter does not fit the model; missing: {missing or 'none'}, "
            f"unexpected: {unexpected or 'none'}",
            fix="Use the recipe that the adapter was trained with",
        )
    for name, module in adapted_modules(model):
        _load_module(name, module, state)


def _peft_pairs(name: str, module: LoraModule) -> dict[str, tuple[Tensor, Tensor]]:
    """PEFT's names and (A, B) of one module; PEFT adapts all of an attention at one rank."""
    if isinstance(module, LoraLinear):
        return {name: module.lora.stacked()}
    out_proj, width = module.out_proj, module.embed_dim
    out = out_proj.lora.stacked() if isinstance(out_proj, LoraLinear) else None
    if module.lora is not None:
        fused = module.lora.stacked()
    else:
        assert out is not None
        fused = (torch.zeros_like(out[0]), out[1].new_zeros(len(FUSED) * width, len(out[0])))
    rank = len(fused[0])
    down, up = fused[0].new_zeros(rank, width), fused[1].new_zeros(width, rank)
    if out is not None:
        down[: len(out[0])], up[:, : len(out[0])] = out
    return {name: fused, f"{name}.base_layer.out_proj": (down, up)}


def _load_module(name: str, module: LoraModule, state: Mapping[str, Tensor]) -> None:
    def pair(key: str) -> tuple[Tensor, Tensor]:
        prefix = f"{PEFT_PREFIX}{key}.lora_"
        return state[f"{prefix}A.weight"], state[f"{prefix}B.weight"]

    if module.lora is not None:
        module.lora.load_stacked(*pair(name), name)
    if isinstance(module, LoraMultiheadAttention):
        down, up = pair(f"{name}.base_layer.out_proj")
        out = module.out_proj.lora if isinstance(module.out_proj, LoraLinear) else None
        rank = len(out.lora_A["all"]) if out else 0
        if down[rank:].any() or up[:, rank:].any():
            raise AdapterError("the adapter's output projection has a larger rank", record=name)
        if out:
            out.load_stacked(down[:rank], up[:, :rank], name)
