"""Inject LoRA into a model by module name, merge it, and undo the merge."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segtune.core.errors import AdapterError
from segtune.lora.layers import FUSED, LoraLinear, LoraModule, LoraMultiheadAttention, LoraSpec


def inject_lora(
    model: nn.Module, specs: Mapping[str, LoraSpec], seed: int = 0
) -> dict[str, LoraSpec]:
    """Freeze a model and adapt the modules that the patterns name, in place.

    Args:
        model: any module with linear layers or multi-head attention.
        specs: regular expression that matches full module names -> how to adapt them.
        seed: of the random A matrices; the global generator is not disturbed.

    Returns:
        What was adapted: full module name -> its spec.

    Raises:
        AdapterError: when a pattern matches nothing, a module that cannot be adapted, or a
            module that another pattern has adapted.
    """
    model.requires_grad_(False)
    adapted: dict[str, LoraSpec] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for pattern, spec in specs.items():
            for name in _matching(model, pattern):
                if name in adapted:
                    raise AdapterError("matched by two LoRA targets", record=name)
                _replace(model, name, _adapt(model.get_submodule(name), spec, name))
                adapted[name] = spec
    return adapted


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable adapter parameters by full name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if ".lora.lora_" in name}


def set_strength(model: nn.Module, strength: float) -> None:
    """Let every adapter add its update times `strength`, in place; it is 1 at first.

    The weights of the model are then those of WiSE-FT (Wortsman et al. 2022, "Robust Fine-Tuning
    of Zero-Shot Models"): 0 is the base model, 1 the fine-tuned one.
    """
    for module in model.modules():
        if isinstance(module, LoraLinear | LoraMultiheadAttention) and module.lora is not None:
            module.lora.strength = strength


def weight_updates(model: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """What merging adds to which weight: full parameter name -> its update, computed when called.

    An update has the shape of its weight, and includes the strength.
    """
    return {
        f"{name}.weight" if isinstance(module, LoraLinear) else f"{name}.in_proj_weight": (
            module.lora.delta
        )
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear | LoraMultiheadAttention) and module.lora is not None
    }


def remove_lora(model: nn.Module) -> None:
    """Put the base modules back without the updates, in place."""
    for name, module in list(adapted_modules(model)):
        _replace(model, name, module.base)


def merge_lora(model: nn.Module) -> dict[str, LoraModule]:
    """Add every update to its base weight and put the base modules back, in place.

    Returns:
        The adapted modules that were removed, by full name, for `unmerge_lora`.
    """
    removed = dict(adapted_modules(model))
    for name, module in removed.items():
        _replace(model, name, module.merged())
    return removed


def unmerge_lora(model: nn.Module, removed: Mapping[str, LoraModule]) -> None:
    """Undo `merge_lora`, in place; the base weights come back up to rounding.

    Args:
        model: the merged model.
        removed: what `merge_lora` returned.
    """
    for name, module in removed.items():
        module.unmerge()
        _replace(model, name, module)


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model or a part of it."""

    trainable: int
    total: int


def count_parameters(
    model: nn.Module, group_of: Callable[[str], str] = lambda name: ""
) -> dict[str, ParameterCount]:
    """Parameters per group, groups in the model's order.

    Args:
        model: adapted or not.
        group_of: the group that a parameter belongs to, by its full name.
    """
    counts: dict[str, ParameterCount] = {}
    for name, parameter in model.named_parameters():
        before = counts.get(group_of(name), ParameterCount(0, 0))
        size = parameter.numel()
        counts[group_of(name)] = ParameterCount(
            trainable=before.trainable + size * parameter.requires_grad,
            total=before.total + size,
        )
    return counts


def adapted_modules(model: nn.Module) -> Iterator[tuple[str, LoraModule]]:
    """The adapted modules by full name; an attention's output projection belongs to it."""
    attention = [m for m in model.modules() if isinstance(m, LoraMultiheadAttention)]
    inside_attention = {id(module.out_proj) for module in attention}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLinear | LoraMultiheadAttention):
            continue
        if id(module) not in inside_attention:
            yield name, module


def _matching(model: nn.Module, pattern: str) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    found = [name for name in names if re.fullmatch(pattern, name)]
    if not found:
        plain = re.sub(r"\\(\W)", r"\1", pattern)  # an exact name without its escapes
        near = difflib.get_close_matches(plain, names, n=3, cutoff=0.0)
        raise AdapterError(
            f"LoRA target {plain!r} matches no module",
            fix=f"The closest names are {', '.join(near)}",
        )
    return found


def _adapt(module: nn.Module, spec: LoraSpec, name: str) -> nn.Module:
    if isinstance(module, LoraLinear | LoraMultiheadAttention):
        raise AdapterError("already adapted", record=name)
    if isinstance(module, nn.MultiheadAttention):
        _require(set(spec.projections), {*FUSED, "out"}, name)
        if not spec.projections or module.in_proj_weight is None or module.bias_k is not None:
            raise AdapterError("this attention cannot be adapted", record=name)
        return LoraMultiheadAttention(module, spec)
    if isinstance(module, nn.Linear):
        _require(set(spec.projections), set(FUSED), name)
        if spec.projections and module.out_features % len(FUSED):
            raise AdapterError("this linear layer does not fuse q, k and v", record=name)
        return LoraLinear(module, spec)
    raise AdapterError(f"a {type(module).__name__} cannot be adapted", record=name)


def _require(projections: set[str], allowed: set[str], name: str) -> None:
    if projections - allowed:
        raise AdapterError(
            f"unknown projections {sorted(projections - allowed)}",
            record=name,
            fix=f"Choose from {sorted(allowed)}",
        )


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
