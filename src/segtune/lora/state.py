"""Adapters as a state dict in PEFT's layout: which tensors there are, and their names."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segtune.core.errors import AdapterError
from segtune.lora.inject import adapted_modules
from segtune.lora.layers import FUSED, LoraLinear, LoraModule, LoraMultiheadAttention

_PREFIX = "base_model.model."  # PEFT's wrappers around the model
_OUT_PROJ = ".base_layer.out_proj"  # of an attention that PEFT has wrapped, too


def peft_keys(module: str) -> tuple[str, str]:
    """PEFT's names for A and B of the module with this name."""
    return f"{_PREFIX}{module}.lora_A.weight", f"{_PREFIX}{module}.lora_B.weight"


def peft_out_proj(attention: str) -> str:
    """PEFT's name for the output projection of an attention."""
    return attention + _OUT_PROJ


def peft_modules(state: Mapping[str, object]) -> list[str]:
    """The adapted modules of a state dict, sorted; output projections belong to attention."""
    names = {key.partition(".lora_")[0].removeprefix(_PREFIX) for key in state}
    return sorted(name for name in names if not name.endswith(_OUT_PROJ))


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapters in PEFT's layout: one A and one B per module, on the CPU.

    A module whose q, k and v are adapted separately has them stacked: A (n * rank, in) and
    B (out, n * rank) with the blocks on their own rows and columns.
    """
    state: dict[str, Tensor] = {}
    for name, module in adapted_modules(model):
        for peft_name, pair in _peft_pairs(name, module).items():
            for key, matrix in zip(peft_keys(peft_name), pair, strict=True):
                state[key] = matrix.detach().cpu().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load adapters in PEFT's layout into a model that `inject_lora` has prepared.

    Raises:
        AdapterError: listing every missing and unexpected key, or for a different shape.
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
    return {name: fused, peft_out_proj(name): (down, up)}


def _load_module(name: str, module: LoraModule, state: Mapping[str, Tensor]) -> None:
    if module.lora is not None:
        down, up = (state[key] for key in peft_keys(name))
        module.lora.load_stacked(down, up, name)
    if isinstance(module, LoraMultiheadAttention):
        down, up = (state[key] for key in peft_keys(peft_out_proj(name)))
        out = module.out_proj.lora if isinstance(module.out_proj, LoraLinear) else None
        rank = len(out.lora_A["all"]) if out else 0
        if down[rank:].any() or up[:, rank:].any():
            raise AdapterError("the adapter's output projection has a larger rank", record=name)
        if out:
            out.load_stacked(down[:rank], up[:, :rank], name)
