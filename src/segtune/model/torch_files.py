"""Files of `torch.save`, checked before torch reads them.

`torch.load(weights_only=True)` runs no code from a file. But it compares no checksums, lets a
file of a kilobyte ask for any amount of memory, and explains how to load a file unsafely.
"""

import pickletools
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segtune.core.errors import SegtuneError, shown
from segtune.core.foreign import file_problem, reason

# What a file of tensors and plain values refers to. Other names that torch would accept
# allocate whatever a file asks for.
_STORED = ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short")
_TYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
# These make tensors, and get storages and other tensors.
REBUILDING = {
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
}
CALLED = REBUILDING | {"collections OrderedDict", "torch Size", "torch device"}
ALLOWED = (
    CALLED
    | {f"torch {name}Storage" for name in (*_STORED, "ComplexDouble", "ComplexFloat")}
    | {f"torch {name}" for name in _TYPES}
    | {"torch.storage UntypedStorage"}
)
MAX_NESTED_TUPLES = 20  # hashing deeply nested ones overflows the stack
DAMAGED = "damaged, or not a file of torch.save"
# How a file begins that torch.save wrote before version 1.6, or was told to write.
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
OLD = "it has torch's old format, without checksums; convert it: torch.save(torch.load(OLD), NEW)"

# What a value in a pickle is made of, at most.
PLAIN = 0  # numbers, texts, names, and tuples of them
TABLE = 1  # of anything by name
OTHER = 2  # lists, and results of calls: tensors and storages


class _Refused(Exception):
    """What is wrong with a file."""


class _Value(NamedTuple):
    """What is known of a value on the stack of a pickle."""

    kind: int = PLAIN
    depth: int = 0  # of tuples in tuples
    name: str = ""  # of what a file refers to


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
        return mapped_again(path)
    except (_Refused, OSError, MemoryError) as error:
        problem = reason(error)
    except Exception:
        # Damaged bytes make zipfile, pickletools and torch raise errors of any type, and
        # torch's texts tell how to load the file unsafely.
        problem = DAMAGED
    raise kind(f"cannot read tensors ({problem})", file=path, fix=fix)


def mapped_again(path: Path) -> Any:
    """What `read_torch_file` has read before, mapped anew: none of it is in memory yet."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _require_archive(path: Path) -> None:
    """Check that records are uncompressed and do not overlap, and compare their checksums."""
    with path.open("rb") as file:
        if file.read(len(OLD_FORMAT)) == OLD_FORMAT:
            raise _Refused(OLD)
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = [record.filename for record in records]
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise _Refused("its records are compressed")
        too_large = sum(record.file_size for record in records) > path.stat().st_size
        if too_large or len(set(names)) < len(names):
            raise _Refused("its records overlap")
        for record in records:
            if not record.CRC:  # torch has an option to leave checksums out
                del record.CRC  # so that it is not compared
        descriptions = [name for name in names if name.endswith("/data.pkl")]
        orders = [archive.read(name) for name in names if name.endswith("/byteorder")]
        if len(descriptions) != 1 or set(orders) - {b"little"}:
            raise _Refused(DAMAGED)
        damaged = archive.testzip()
        if damaged is not None:
            raise _Refused(f"damaged: the checksum of {shown(damaged)} is another")
        _require_plain(archive.read(descriptions[0]))


def _require_plain(description: bytes) -> None:
    """Check which names a pickle refers to, what it calls, and how deep its tuples are."""
    stack: list[_Value] = []
    memo: dict[Any, _Value] = {}
    marks: list[int] = []  # lengths of the stack
    for opcode, argument, _ in pickletools.genops(description):
        if opcode.name == "GLOBAL":
            _require_name(str(argument), ALLOWED)
            stack.append(_Value(name=str(argument)))
        elif "PUT" in opcode.name:
            memo[argument] = stack[-1]
        elif "GET" in opcode.name:
            stack.append(memo[argument])
        elif opcode.name == "MARK":
            marks.append(len(stack))
        else:
            made = _made(opcode, _take(opcode, stack, marks))
            stack += [made] * len(opcode.stack_after)


def _made(opcode: pickletools.OpcodeInfo, taken: list[_Value]) -> _Value:
    """What an opcode makes of its arguments.

    Whatever iterates over a tensor allocates as much as its shape says, which is not checked
    yet; so tensors may only be in places where torch itself puts them.
    """
    if "TUPLE" in opcode.name:
        kind = max((value.kind for value in taken), default=PLAIN)
        depth = 1 + max((value.depth for value in taken), default=0)
        if depth > MAX_NESTED_TUPLES:
            raise _Refused("nested too deeply")
        return _Value(kind, depth)
    if opcode.name in ("REDUCE", "NEWOBJ"):
        called, arguments = taken
        _require_name(called.name, CALLED)
        rebuilding = called.name in REBUILDING and arguments.depth > 0
        _require_kind(arguments, OTHER if rebuilding else PLAIN)
        return _Value(OTHER)
    if opcode.name == "BINPERSID":
        _require_kind(taken[0], PLAIN)
        return _Value(OTHER)
    if opcode.name == "BUILD":
        _require_kind(taken[1], TABLE)
    # Of the other opcodes that torch knows, each fills its first argument or makes a constant.
    kinds = {"EMPTY_DICT": TABLE, "EMPTY_LIST": OTHER, "EMPTY_SET": OTHER}
    return taken[0] if taken else _Value(kinds.get(opcode.name, PLAIN))


def _require_name(name: str, allowed: set[str]) -> None:
    if name not in allowed:
        raise _Refused(f"it refers to {shown(name.replace(' ', '.'))}, not only to tensors")


def _require_kind(value: _Value, most: int) -> None:
    if value.kind > most:
        raise _Refused("it has tensors where torch.save puts none")


def _take(opcode: pickletools.OpcodeInfo, stack: list[_Value], marks: list[int]) -> list[_Value]:
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
