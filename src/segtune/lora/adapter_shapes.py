"""What an adapter must hold to fit a model, compared with its files before memory is asked for."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import nn

from segtune.core.errors import MAX_SHOWN, AdapterError, listed
from segtune.lora.layers import FUSED, LoraSpec
from segtune.lora.state import peft_keys, peft_out_proj

Shapes = dict[str, tuple[int, ...]]
FLOATS = {"F64", "F32", "F16", "BF16"}
MAX_LISTED = 5


def read_shapes(path: Path) -> Shapes:
    """The shapes of a safetensors file, from its header.

    Raises:
        AdapterError: for a tensor that is not of floating point.
        OSError, SafetensorError: when the file cannot be read.
    """
    shapes: Shapes = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            part = file.get_slice(key)
            if part.get_dtype() not in FLOATS:
                raise AdapterError(
                    f"numbers of type {part.get_dtype()} are not an adapter's",
                    file=path,
                    record=key[:MAX_SHOWN],
                    fix="Save the adapter in floating point",
                )
            shapes[key] = tuple(part.get_shape())
    return shapes


def require_fitting(model: nn.Module, ranks: Mapping[str, int], shapes: Shapes, path: Path) -> None:
    """Check that an adapter has the tensors that a model needs, in their shapes.

    Args:
        model: the base model.
        ranks: module name -> rank over all blocks, as in the file.
        shapes: from `read_shapes`.
        path: of the adapter's tensors.

    Raises:
        AdapterError: naming modules that the model lacks, and tensors that do not fit.
    """
    if not ranks:
        raise AdapterError("no adapters in this file", file=path, fix="Save the adapter again")
    modules = dict(model.named_modules())
    expected: Shapes = {}
    for name, rank in ranks.items():
        if name not in modules:
            raise AdapterError(
                "the model has no such module",
                file=path,
                record=name[:MAX_SHOWN],
                fix="Choose the base model that the adapter was trained on",
            )
        expected |= _module_shapes(name, modules[name], rank=rank, path=path)
    _compare(expected, shapes, path)


def stacked_blocks(spec: LoraSpec) -> int:
    """How many adapters a module's A and B hold, one below the other."""
    return max(1, len(set(spec.projections) & set(FUSED)))


def _module_shapes(name: str, module: nn.Module, *, rank: int, path: Path) -> Shapes:
    down, up = peft_keys(name)
    if isinstance(module, nn.MultiheadAttention):
        width = module.embed_dim
        out_down, out_up = peft_keys(peft_out_proj(name))
        whole = {down: (rank, width), up: (len(FUSED) * width, rank)}
        return whole | {out_down: (rank, width), out_up: (width, rank)}
    if isinstance(module, nn.Linear):
        return {down: (rank, module.in_features), up: (module.out_features, rank)}
    problem = f"a {type(module).__name__} cannot be adapted"
    raise AdapterError(problem, file=path, record=name, fix="Adapt linear layers and attention")


def _compare(expected: Shapes, shapes: Shapes, path: Path) -> None:
    problems = {
        "missing": sorted(expected.keys() - shapes.keys()),
        "unexpected": sorted(shapes.keys() - expected.keys()),
        "of another shape": [
            f"{key} {shapes[key]} instead of {expected[key]}"
            for key in sorted(expected.keys() & shapes.keys())
            if shapes[key] != expected[key]
        ],
    }
    found = [
        f"{len(keys)} {kind}: {listed(keys, MAX_LISTED)}" for kind, keys in problems.items() if keys
    ]
    if found:
        raise AdapterError(
            f"the adapter does not fit the model; {'; '.join(found)}",
            file=path,
            fix="Use the base model and the recipe that the adapter was trained with",
        )
