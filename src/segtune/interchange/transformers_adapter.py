"""An adapter under transformers' names, in PEFT's format.

There, queries, keys and values are linear layers of their own, and so are attention's output
projections, so that PEFT computes and merges what segtune does.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segtune.core.atomic import write_json
from segtune.core.errors import AdapterError
from segtune.interchange.safetensors_file import write_safetensors
from segtune.interchange.transformers_keys import FUSED, renamed_module
from segtune.lora.adapter import CONFIG, WEIGHTS
from segtune.lora.inject import adapted_modules
from segtune.lora.layers import LoraLinear, LoraModule
from segtune.lora.state import peft_keys

Pair = tuple[Tensor, Tensor, float]  # A (rank, in), B (out, rank), and the scale of B A


def write_transformers_adapter(
    folder: Path, model: nn.Module, base_model: str, *, strength: float
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        folder: for the files.
        model: with adapters.
        base_model: its name.
        strength: by which updates are multiplied.

    Raises:
        AdapterError: when nothing that transformers has is adapted.
    """
    pairs = dict(_pairs(model))
    if not pairs:
        raise AdapterError(
            "transformers has none of the adapted modules",
            file=folder,
            fix="Use the merged model of this export",
        )
    tensors = {
        key: matrix
        for name, (down, up, _) in pairs.items()
        for key, matrix in zip(peft_keys(name), (down, up), strict=True)
    }
    write_safetensors(folder / WEIGHTS, lambda: tensors)
    write_json(folder / CONFIG, _config(pairs, base_model, strength))


def _pairs(model: nn.Module) -> Iterator[tuple[str, Pair]]:
    """Each adapted linear layer of transformers, by name."""
    for name, module in adapted_modules(model):
        for part, adapters in _parts(name, module):
            other = renamed_module(part)
            if other is None:  # weights for points, which never have an effect
                continue
            if "{}" not in other:
                yield other, (*adapters.stacked(), adapters.scale)
            else:
                for block, pair in _blocks(adapters).items():
                    yield other.format(block), (*pair, adapters.scale)


def _parts(name: str, module: LoraModule) -> Iterator[tuple[str, Any]]:
    """The adapters of each weight matrix of a module."""
    if isinstance(module, LoraLinear):
        yield name, module.lora
        return
    if module.lora is not None:
        yield f"{name}.in_proj", module.lora
    if isinstance(module.out_proj, LoraLinear):
        yield f"{name}.out_proj", module.out_proj.lora


def _blocks(adapters: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) of queries, keys and values, as far as they are adapted."""
    if adapters.blocks == ("all",):  # by PEFT, with one A for the three
        down, up = adapters.stacked()
        return {name: (down, rows) for name, rows in zip(FUSED, up.chunk(3), strict=True)}
    return {name: (adapters.lora_A[name], adapters.lora_B[name]) for name in adapters.blocks}


def _config(pairs: Mapping[str, Pair], base_model: str, strength: float) -> dict[str, Any]:
    ranks = {name: len(down) for name, (down, _, _) in pairs.items()}
    # PEFT scales by alpha / rank.
    alphas = {name: scale * strength * ranks[name] for name, (_, _, scale) in pairs.items()}
    first = next(iter(pairs))
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": ranks[first],
        "lora_alpha": alphas[first],
        "lora_dropout": 0.0,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        # An expression, which names whole modules: `text_projection` in a list would also be
        # found at the end of `text_encoder.text_projection`.
        "target_modules": "|".join(re.escape(name) for name in sorted(pairs)),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "task_type": None,
    }
