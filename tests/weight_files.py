"""Small files of tensors, mutated so that what is inside is damaged behind correct checksums."""

import hashlib
import io
import json
import math
import pickletools
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from segtune.lora.adapter import save_adapter
from segtune.lora.inject import inject_lora
from segtune.lora.state import lora_state_dict
from segtune.model.architecture import build_model
from segtune.model.official_format import write_official
from tests.fuzzing import mutated
from tests.lora_net import SPECS, net, randomize

GLOBALS = [
    b"cposix\nsystem\n",
    b"cbuiltins\nbytearray\n",
    b"ctorch\nTensor\n",
    b"ctorch\nDoubleStorage\n",
    b"ctorch\nBoolStorage\n",
    b"ctorch.storage\nUntypedStorage\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
]
WEIGHTS, RECIPE = "adapter_model.safetensors", "recipe.json"


def write_net(path: Path) -> None:
    """A small net as an official file, with a tensor of the video tracker."""
    write_official(path, net().state_dict(), {"tracker.memory": torch.ones(2, 3)})


def write_sam31(path: Path, architecture: str = "tiny", dtype: torch.dtype | None = None) -> None:
    """A file with the layout of SAM 3.1's, in this or full precision, and random weights.

    It is one flat table of two necks and a tracker that only the video model reads, and of an
    image model whose neck has three scales. The real file has 1,166 + 457 tensors.
    """
    model = build_model(architecture, seed=5, neck_scales=3).state_dict()
    values = {f"detector.{key}": value for key, value in model.items()}
    neck = "detector.backbone.vision_backbone.convs."
    for number, video in enumerate(("interactive_convs.", "propagation_convs."), start=1):
        copies = {key: value + number for key, value in values.items() if key.startswith(neck)}
        values |= {key.replace("convs.", video): value for key, value in copies.items()}
    values |= {f"tracker.model.{number}.weight": torch.randn(2, 3) for number in range(456)}
    values["tracker.model.no_obj_ptr"] = torch.randn(1, 8, dtype=torch.float64)
    if dtype:
        values = {k: v.to(dtype) if v.is_floating_point() else v for k, v in values.items()}
    torch.save(values, path)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)))


def write_adapter(folder: Path) -> None:
    """A small net's adapter, as segtune trains it."""
    model = net()
    adapted = inject_lora(model, SPECS)
    randomize(model)
    recipe = {"seed": 3}
    state = lora_state_dict(model)
    save_adapter(folder, state, specs=adapted, base_model="net", recipe=recipe)


def write_peft_adapter(folder: Path) -> None:
    """A small net's adapter, as PEFT trains it."""
    targets = ["plain", "qkv", "attention"]
    config = LoraConfig(r=3, target_modules=targets, alpha_pattern={"qkv": 5})
    get_peft_model(net(), config).save_pretrained(folder)


def archive_mutated(content: bytes, rng: random.Random) -> bytes:
    """A file of torch.save with a record mutated, removed or replaced, and its checksums right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    names = list(records)
    name = rng.choice(names)
    choice = rng.random()
    if choice < 0.6:  # what describes the tensors
        name = next(name for name in names if name.endswith("data.pkl"))
        records[name] = pickle_mutated(records[name], rng)
    elif choice < 0.9:
        records[name] = mutated(records[name], rng)
    elif choice < 0.95:
        del records[name]
    else:
        records[name] = records[rng.choice(names)]
    return archive_of(records)


def pickle_mutated(content: bytes, rng: random.Random) -> bytes:
    """A pickle with an operation replaced, removed or repeated."""
    starts = [position for *_, position in pickletools.genops(content) if position is not None]
    for _ in range(rng.choice((1, 1, 2))):
        index = rng.randrange(len(starts) - 1)
        start, end = starts[index], starts[index + 1]
        operation = content[start:end]
        other = rng.choice(
            (same_kind(operation, rng), same_kind(operation, rng), b"", operation * 2)
        )
        content = content[:start] + other + content[end:]
        starts = starts[: index + 1]  # the positions behind have changed
        if len(starts) < 2:
            break
    return content


def same_kind(operation: bytes, rng: random.Random) -> bytes:
    """Another operation that puts the same kind of value onto the stack."""
    if operation[:1] in b"KMJ\x8a":
        return integer(rng.choice((0, 1, 2, -1, 3, 16, 48, 10**6, 10**10, 2**62, 2**63, 10**100)))
    if operation[:1] == b"X":
        return text(rng.choice(("", "0", "5", "model", "detector.x", "\x1b[2J", "a" * 9999)))
    if operation[:1] == b"c":
        return rng.choice(GLOBALS)
    return rng.choice((b"N", b"}", b"]", b")", b"\x88", b"0", b"R", b"Q", b"t", operation))


def described(values: bytes) -> dict[str, bytes]:
    """The records of a file that torch.save might write, with one storage of four bytes."""
    plain = {"archive/byteorder": b"little", "archive/data/0": b"\0\0\x80?"}
    plain["archive/version"] = b"3\n"
    return {"archive/data.pkl": b"\x80\x02" + values + b".", **plain}


def table(value: bytes) -> bytes:
    """The operations for {"model": {"detector.a": value}}."""
    return b"}" + text("model") + b"}" + text("detector.a") + value + b"ss"


def tensor(shape: list[int], strides: list[int], numbers: int = 1) -> bytes:
    """The operations for a tensor in the storage, which the file claims to hold some numbers."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    sizes = b"".join(b"(" + b"".join(map(integer, values)) + b"t" for values in (shape, strides))
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(numbers) + b"tQ"
    return rebuilt + integer(0) + sizes + b"\x89ccollections\nOrderedDict\n)RtR"


def integer(number: int) -> bytes:
    """The operation for an integer."""
    digits = number.to_bytes((number.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(digits)]) + digits


def text(value: str) -> bytes:
    """The operation for a text."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def archive_of(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive with these records."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    return file.getvalue()


def header_mutated(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with its header mutated, and the header's length right."""
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length]
    if rng.random() < 0.3:
        header = mutated(header, rng, "header.json")
    else:
        tensors = json.loads(header)
        change_tensor(tensors, rng.choice([n for n in tensors if n != "__metadata__"]), rng)
        header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def change_tensor(tensors: dict[str, Any], name: str, rng: random.Random) -> None:
    """Change a tensor in a header so that it still fits its bytes, mostly."""
    tensor = tensors[name]
    choice = rng.randrange(5)
    if choice == 0:
        tensor["dtype"] = rng.choice(("I32", "U32", "F16", "BF16", "F64", "BOOL", "F8_E4M3", "C64"))
    elif choice == 1:
        count = math.prod(tensor["shape"])
        tensor["shape"] = rng.choice(
            (tensor["shape"][::-1], [count], [count, 1], [1, 1, count], [], [10**12, 0], [-1])
        )
    elif choice == 2:
        tensors[rng.choice(("", name + "x", name[18:], "a" * 9999, "\x1b[2J", "é"))] = tensor
        del tensors[name]
    elif choice == 3:
        tensors[rng.choice(list(tensors))] = tensor
    else:
        del tensors[name]


def values_mutated(path: Path, rng: random.Random) -> None:
    """Change the values, the type or the layout of one tensor in a safetensors file."""
    tensors = load_file(path)
    name = rng.choice(list(tensors))
    changed = rng.choice(
        (
            lambda t: t * math.nan,
            lambda t: t.fill_(math.inf),
            lambda t: t * 1e38,
            lambda t: t + 1,
            lambda t: t.int(),
            lambda t: t.half(),
            lambda t: t.double(),
            lambda t: t[:1],
            lambda t: t.new_zeros(0),
        )
    )
    save_file({**tensors, name: changed(tensors[name]).contiguous()}, path)


def correct_digest(folder: Path) -> None:
    """Make the recipe's checksum that of the tensors, as someone who changed them would."""
    recipe = json.loads((folder / RECIPE).read_text())
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]
    (folder / RECIPE).write_text(json.dumps({**recipe, "adapter_sha256": digest}))
