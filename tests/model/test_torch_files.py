"""Files of torch.save: nothing in them is run, believed or allocated before it is checked."""

import os
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.serialization import set_crc32_options

from segtune.core.errors import WeightsError
from segtune.model.official_format import read_official
from segtune.model.torch_files import read_torch_file
from tests.weight_files import archive_of, described, integer, table, tensor, text, write_net

FIX = "Ask for another"
DAMAGED = "damaged, or not a file of torch.save"
BILLION = integer(10**9)
BOMBS = {
    "bytes": b"cbuiltins\nbytearray\n(" + BILLION + b"tR",
    "python 2's bytes": b"c__builtin__\nbytearray\n(" + BILLION + b"tR",
    "a tensor": b"ctorch\nTensor\n(" + BILLION + b"tR",
    "a storage": b"ctorch.storage\nUntypedStorage\n(" + BILLION + b"tR",
}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as raised:
        read_torch_file(path, WeightsError, FIX)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith(f". {FIX}")
    assert message.isprintable()
    for advice in ("weights_only", "safe_globals", "trust"):
        assert advice not in message
    return message


def test_a_described_tensor_is_read(tmp_path: Path) -> None:
    # So that the files below are refused for what they have, and not for how they are made.
    path = written(tmp_path / "a.pt", archive_of(described(table(tensor([1], [1])))))
    assert read_official(path).detector["a"].tolist() == [1.0]


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_cannot_ask_for_memory(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "bomb.pt", archive_of(described(table(BOMBS[kind]))))
    assert path.stat().st_size < 1500
    tracemalloc.start()
    message = refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "it refers to" in message
    assert peak < 10**7


@pytest.mark.parametrize(
    ("shape", "strides", "numbers"),
    [
        ([10**5, 10**5], [0, 0], 1),
        ([10**10], [1], 1),
        ([10**10], [1], 10**10),
        ([2**62, 2], [1, 1], 1),
        ([-1], [1], 1),
        ([2], [-1], 2),
        ([1], [1], -1),
    ],
)
def test_a_shape_is_not_believed(
    tmp_path: Path, shape: list[int], strides: list[int], numbers: int
) -> None:
    content = archive_of(described(table(tensor(shape, strides, numbers))))
    with pytest.raises(
        WeightsError, match=rf"a: has the shape .*; all tensors take .* bytes|{DAMAGED}"
    ):
        read_official(written(tmp_path / "a.pt", content))


def called(name: str, value: bytes) -> bytes:
    """The operations for name(value)."""
    return f"c{name}\n".replace(" ", "\n").encode() + value + b"\x85R"


HUGE = tensor([10**8, 2], [0, 0])
MISPLACED = {
    "size": called("torch Size", HUGE),
    "list": called("collections OrderedDict", b"]" + HUGE + b"a"),
    "arguments": b"ccollections\nOrderedDict\n" + HUGE + b"R",
    "new": b"ctorch\nSize\n" + HUGE + b"\x85\x81",
    "rebuilt": b"ctorch._utils\n_rebuild_parameter\n" + HUGE + b"R",
    "attributes": called("collections OrderedDict", b")") + HUGE + b"b",
    "storage": b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("1") + b"N" + HUGE + b"tQ",
}


@pytest.mark.parametrize("place", MISPLACED)
def test_a_tensor_of_any_shape_is_not_iterated_over(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("must not be reached"))
    content = archive_of(described(table(MISPLACED[place])))
    assert "tensors where torch.save puts none" in refused(written(tmp_path / "a.pt", content))


def test_whatever_torch_saves_with_tensors_is_read(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    tensors = {"base": base, "part": base[2:4], "again": base.view(2, 3).T, "one": base[1]}
    for dtype in (torch.bfloat16, torch.uint16, torch.float8_e4m3fn, torch.complex64, torch.bool):
        tensors[str(dtype)] = torch.ones(3).to(dtype)
    tensors["parameter"] = torch.nn.Parameter(base)
    tensors["expanded"] = torch.tensor([7.0]).expand(3, 5)
    values: dict[str, Any] = OrderedDict(tensors)
    values |= {"size": torch.Size([2, 3]), "device": torch.device("cuda", 0), "type": torch.half}
    values._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    torch.save({"model": values}, tmp_path / "a.pt")
    found = read_torch_file(tmp_path / "a.pt", WeightsError, FIX)["model"]
    assert found.keys() == values.keys()
    assert found._metadata == values._metadata  # type: ignore[attr-defined]
    for name, value in values.items():
        assert type(found[name]) is type(value)
        same = torch.equal(found[name], value) if name in tensors else found[name] == value
        assert same, name


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "a.pt")
    finally:
        set_crc32_options(True)
    assert read_torch_file(tmp_path / "a.pt", WeightsError, FIX)["a"].tolist() == [1, 1, 1]


def test_the_old_format_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    message = refused(tmp_path / "a.pt")
    assert "old format" in message
    assert "torch.save(torch.load(OLD), NEW)" in message


@pytest.mark.parametrize("name", ["os.system", "\x1b[2Jevil.call", "a" * 5000 + ".b"])
def test_a_name_of_code_is_shown_without_advice(tmp_path: Path, name: str) -> None:
    module, _, call = name.rpartition(".")
    values = table(f"c{module}\n{call}\n(tR".encode())
    message = refused(written(tmp_path / "code.pt", archive_of(described(values))))
    assert "it refers to" in message
    assert len(message) < 500


def test_every_flipped_bit_of_a_tensor_is_noticed(tmp_path: Path) -> None:
    write_net(tmp_path / "net.pt")
    content = (tmp_path / "net.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "net.pt") as archive:
        record = max(archive.infolist(), key=lambda record: record.file_size)
    with (tmp_path / "net.pt").open("rb") as file:
        file.seek(record.header_offset + 26)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    start = record.header_offset + 30 + name + extra
    for place in range(start, start + record.file_size, 97):
        flipped = bytearray(content)
        flipped[place] ^= 4
        path = written(tmp_path / "flipped.pt", bytes(flipped))
        assert f"the checksum of '{record.filename}' is another" in refused(path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    write_net(tmp_path / "net.pt")
    content = (tmp_path / "net.pt").read_bytes()
    for length in range(0, len(content), 499):
        refused(written(tmp_path / "cut.pt", content[:length]))


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    records = {**described(table(tensor([1], [1]))), "archive/data/1": bytes(10**8)}
    path = written(tmp_path / "a.pt", archive_of(records, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 10**6
    assert "compressed" in refused(path)


def test_the_same_record_twice_is_refused(tmp_path: Path) -> None:
    write_net(tmp_path / "net.pt")
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "net.pt", "a") as archive,
    ):
        archive.writestr("archive/data.pkl", b"}.")
    assert "overlap" in refused(tmp_path / "net.pt")


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    assert "it is a pipe" in refused(tmp_path / "pipe")
    assert "it is a folder" in refused(tmp_path)
    assert "it is a link to a file that does not exist" in refused(tmp_path / "link")
    assert "No such file" in refused(tmp_path / "nothing")
    assert "name too long" in refused(tmp_path / ("x" * 300))


@pytest.mark.parametrize("values", [[torch.ones(1)], {"a": {1: "b"}}, 7, None])
def test_plain_values_are_read_as_they_are(tmp_path: Path, values: object) -> None:
    torch.save(values, tmp_path / "a.pt")
    assert read_torch_file(tmp_path / "a.pt", WeightsError, FIX) == values
