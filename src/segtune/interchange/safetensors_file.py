"""Writing safetensors tensor by tensor: the package's own writer copies all of them first.

Tensors that are mapped from a file take memory once they are read, until the mapping is gone, so
they are written in groups, each with a mapping of its own.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from segtune.core.atomic import atomic_path
from segtune.core.errors import WeightsError
from segtune.model.mapped_weights import bytes_of, in_groups

# The format's names of types: https://huggingface.co/docs/safetensors
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.bool: "BOOL",
}
ALIGNMENT = 8  # bytes
# Tensors by name, the same at each call; from a file, mapped anew: none is in memory yet.
Anew = Callable[[], Mapping[str, Tensor]]


def write_safetensors(path: Path, anew: Anew) -> None:
    """Write tensors, atomically; at most one of them is copied at a time, and a group mapped.

    The same tensors always give the same bytes.

    Args:
        path: of the file.
        anew: gives the tensors; called once for each group of them.

    Raises:
        ResourceError: when the disk is full or cannot be written to.
        WeightsError: for a type of numbers that the format has not.
    """
    tensors = anew()
    # Large types first, so that each tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    sizes, end = bytes_of({name: tensors[name] for name in names}), 0
    for name in names:
        start, end = end, end + sizes[name]
        header[name] = {
            "dtype": _type(name, tensors[name], path),
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for group in in_groups(sizes):
            tensors = anew()
            for name in group:
                flat = tensors[name].detach().cpu().contiguous().flatten()
                file.write(flat.view(torch.uint8).numpy().data)


def _type(name: str, tensor: Tensor, path: Path) -> str:
    if tensor.dtype not in TYPES:
        raise WeightsError(
            f"safetensors has no type for {tensor.dtype}",
            file=path,
            record=name,
            fix="Convert the tensor, or use the weights as they are",
        )
    return TYPES[tensor.dtype]
