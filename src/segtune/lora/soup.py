"""Several adapters of one base model as one, whose update is a weighted sum of theirs.

Wortsman et al. 2022, "Model soups", average the weights of fine-tuned models. Neither the A nor
the B of adapters can be averaged for that, because the product of two means is not the mean of
the products. But side by side they are exact:

    w1 B1 A1 + w2 B2 A2  =  [w1 B1  w2 B2] @ [ A1 ]
                                             [ A2 ]
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from segtune.core.errors import AdapterError
from segtune.lora.inject import inject_lora, lora_parameters, remove_lora
from segtune.lora.layers import FUSED, LoraSpec
from segtune.lora.state import lora_state_dict

ORDER = (*FUSED, "out")


@dataclass(frozen=True)
class Part:
    """An adapter and how much of it to add."""

    specs: Mapping[str, LoraSpec]  # by full module name
    parameters: Mapping[str, Tensor]  # as of `lora_parameters`, detached
    weight: float


def weighted_sum(
    model: nn.Module, parts: Sequence[Part]
) -> tuple[dict[str, LoraSpec], dict[str, Tensor]]:
    """The adapter whose update is the sum of all updates times their weights.

    Its rank is the sum of all ranks; a module that only some adapters have gets only theirs.

    Args:
        model: not adapted, which it is not afterward either. Its weights are not read.
        parts: adapters of this model.

    Returns:
        What is adapted, and the state as of `lora_state_dict`.

    Raises:
        AdapterError: when a module is adapted whole by one adapter and in blocks by another.
    """
    names = {name: None for part in parts for name in part.specs}
    specs = {name: _common_spec(name, parts) for name in names}
    inject_lora(model, {re.escape(name): spec for name, spec in specs.items()})
    parameters = lora_parameters(model)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.zero_()
        used = dict.fromkeys(specs, 0)  # of each rank
        for part in parts:
            _fill(parameters, part, specs, used)
    state = lora_state_dict(model)
    remove_lora(model)
    return specs, state


def _common_spec(name: str, parts: Sequence[Part]) -> LoraSpec:
    found = [part.specs[name] for part in parts if name in part.specs]
    if len(found) == 1:
        return found[0]
    if len({bool(spec.projections) for spec in found}) > 1:
        raise AdapterError(
            "adapted whole by one adapter and in blocks by another",
            record=name,
            fix="Leave one of these adapters out",
        )
    rank = sum(spec.rank for spec in found)
    projections = {projection for spec in found for projection in spec.projections}
    return replace(
        found[0],
        rank=rank,
        alpha=found[0].scale * rank,
        projections=tuple(p for p in ORDER if p in projections),
        rank_stabilized=False,
    )


def _fill(
    parameters: Mapping[str, Tensor],
    part: Part,
    specs: Mapping[str, LoraSpec],
    used: dict[str, int],
) -> None:
    """Put an adapter behind what is already in its modules, in place."""
    for key, values in part.parameters.items():
        name = _module(key, part.specs)
        own, start = part.specs[name], used[name]
        ranks = slice(start, start + own.rank)
        if ".lora_A_" in key:
            parameters[key][ranks] = values
        else:
            # All weights and scales are in B; what is divided by comes back when it is used.
            parameters[key][:, ranks] = values * (part.weight * own.scale / specs[name].scale)
    for name, spec in part.specs.items():
        used[name] += spec.rank


def _module(key: str, specs: Mapping[str, LoraSpec]) -> str:
    """The adapted module of a parameter; an attention's output projection belongs to it."""
    name = key.partition(".lora.lora_")[0]
    return name if name in specs else name.removesuffix(".out_proj")
