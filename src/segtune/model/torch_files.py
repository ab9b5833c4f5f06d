"""Files of `torch.save`, checked before torch reads them.

`torch.load(weights_only=True)` runs no code from a file. But it compares no checksums, lets a
file of a kilobyte ask for any amount of memory, and explains how to load a file unsafely.
"""

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch

from segtune.core.errors import SegtuneError, shown
from segtune.core.foreign import file_problem, reason

# What a file of tensors and plain values refers to. Other names that torch would accept
# allocate whatever a file asks for.
_REAL = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
ALLOWED = {f"torch {name}Storage" for name in (*_REAL, "ComplexDouble", "ComplexFloat")} | {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
}
MAX_NESTED_TUPLES = 20  # hashing deeply nested ones overflows the stack
DAMAGED = "damaged, or not a file of torch.save"


class _Refused(Exception):
    """What is wrong with a file."""


def read_torch_file(path: Path, kind: type[SegtuneError], fix: str) -> Any:
    """Read plain values and tensors; those are mapped from the file when they are used.

    Args:
        path: of a file that `torch.save` wrote.
        kind: of the error.
        fix: of the error.

    Raises:
        SegtuneError: of this kind, when the file is missing, damaged, or holds anything else.
    """
    try:
        if problem := file_problem(path):
            raise _Refused(problem)
        _require_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (_Refused, OSError, MemoryError) as error:
        problem = reason(error)
    except Exception:
        # Damaged bytes make zipfile, pickletools and torch raise errors of any type, and
        # torch's texts tell how to load the file unsafely.
        problem = DAMAGED
    raise kind(f"cannot read tensors ({problem})", file=path, fix=fix)


def _require_archive(path: Path) -> None:
    """Check that records are uncompressed and do not overlap, and compare their checksums."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = [record.filename for record in records]
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise _Refused("its records are compressed")
        too_large = sum(record.file_size for record in records) > path.stat().st_size
        if too_large or len(set(names)) < len(names):
            raise _Refused("its records overlap")
        descriptions = [name for name in names if name.endswith("/data.pkl")]
        orders = [archive.read(name) for name in names if name.endswith("/byteorder")]
        if len(descriptions) != 1 or set(orders) - {b"little"}:
            raise _Refused(DAMAGED)
        damaged = archive.testzip()
        if damaged is not None:
            raise _Refused(f"damaged: the checksum of {shown(damaged)} is another")
        _require_plain(archive.read(descriptions[0]))


def _require_plain(description: bytes) -> None:
    """Check which names a pickle refers to, and how deeply its tuples are nested."""
    stack: list[int] = []  # depths of tuples
    memo: dict[Any, int] = {}
    marks: list[int] = []  # lengths of the stack
    for opcode, argument, _ in pickletools.genops(description):
        if opcode.name == "GLOBAL" and argument not in ALLOWED:
            name = str(argument).replace(" ", ".")
            raise _Refused(f"it refers to {shown(name)}, not only to tensors")
        if "PUT" in opcode.name:
            memo[argument] = stack[-1]
        elif "GET" in opcode.name:
            stack.append(memo[argument])
        elif opcode.name == "MARK":
            marks.append(len(stack))
        else:
            taken = _take(opcode, stack, marks)
            depth = 1 + max(taken, default=0) if "TUPLE" in opcode.name else 0
            if depth > MAX_NESTED_TUPLES:
                raise _Refused("nested too deeply")
            stack += [depth] * len(opcode.stack_after)


def _take(opcode: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> list[int]:
    """Take an opcode's arguments from the stack."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        start = marks.pop() - before.index(pickletools.markobject)
    else:
        start = len(stack) - len(before)
    if start < 0:
        raise _Refused(DAMAGED)
    taken = stack[start:]
    del stack[start:]
    return taken
