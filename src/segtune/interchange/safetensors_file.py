"""Writing safetensors tensor by tensor: the package's own writer copies all of them first."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from segtune.core.atomic import atomic_path
from segtune.core.errors import WeightsError

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


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, atomically; at most one of them is copied at a time.

    The same tensors always give the same bytes.

    Args:
        path: of the file.
        tensors: by name; views and tensors that are mapped from a file, too.

    Raises:
        ResourceError: when the disk is full or cannot be written to.
        WeightsError: for a type of numbers that the format has not.
    """
    # Large types first, so that each tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": _type(name, tensors[name], path),
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
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
