"""An official file with updates added to some of its tensors.

Everything else is copied byte by byte: tensors that only other models read, the order and the
precision of all, and whatever else the file holds. Only the tensors of a group are in memory at
a time.
"""

import mmap
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch.serialization import set_default_mmap_options

from segtune.core.atomic import atomic_path
from segtune.core.errors import AdapterError, WeightsError
from segtune.model.mapped_weights import bytes_of, in_groups
from segtune.model.official_format import (
    PREFIX,
    OfficialWeights,
    is_finite,
    official_again,
    write_official,
)

Updates = Mapping[str, Callable[[], Tensor]]
CHUNK = 16_000_000  # bytes that are read at once
# Of the format of zip archives (APPNOTE.TXT 6.3.10, 4.3): where a CRC-32 is.
CENTRAL = struct.Struct("<28xHHH12x")  # lengths of name, extra field and comment
CENTRAL_CRC = 16
LOCAL = struct.Struct("<26xHH")  # lengths of name and extra field
LOCAL_CRC = 14
CRC_FOLLOWS = 0x08  # flag: the CRC is behind the data
DESCRIPTOR = b"PK\x07\x08"  # how what is behind the data may begin


def write_updated(path: Path, base: Path, updates: Updates) -> int:
    """Write an official file with updates, atomically; the same ones always give the same bytes.

    A sum is computed in float32 and stored in the precision that the tensor had.

    Args:
        path: to write.
        base: an official file that was read before.
        updates: keys of the image model -> what to add, of the tensor's shape.

    Returns:
        How many tensors are bitwise identical to those of the base, which has been checked.

    Raises:
        AdapterError: when a sum is not finite in that precision.
        WeightsError: when another tensor does not read as it was written.
    """
    with atomic_path(path) as temporary:
        _copy(base, temporary)
        sizes = bytes_of(official_again(base).detector)
        for keys in in_groups({key: sizes[key] for key in updates}):
            _add({key: updates[key] for key in keys}, temporary)
        _renew_checksums(temporary)
        return _compare_others(base, temporary, changed={PREFIX + key for key in updates})


def _copy(base: Path, path: Path) -> None:
    official = official_again(base)
    if not _stored_apart(all_tensors(official).values()):
        write_official(path, official.detector, official.rest, nested=official.nested)
        return
    with base.open("rb") as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, CHUNK)


def _stored_apart(tensors: Iterable[Tensor]) -> bool:
    """Whether each byte of the file belongs to one number of one tensor."""
    storages = [(t.untyped_storage(), t) for t in tensors if t.numel()]
    places = {storage.data_ptr() for storage, _ in storages}
    exact = all(storage.nbytes() == t.nbytes and t.is_contiguous() for storage, t in storages)
    return exact and len(places) == len(storages)


def _add(updates: Updates, path: Path) -> None:
    with set_default_mmap_options(mmap.MAP_SHARED):
        detector = official_again(path).detector
    for key, update in updates.items():
        weight = detector[key]
        with torch.no_grad():
            stored = (weight.float() + update()).to(weight.dtype)
        if not is_finite(stored):
            raise AdapterError(
                f"after merging, {key} has NaN or infinity in {weight.dtype}",
                fix="Run the training again, or lower merge.strength",
            )
        weight.copy_(stored)


def _renew_checksums(path: Path) -> None:
    """Correct the CRC-32 of every record that has one."""
    with zipfile.ZipFile(path) as archive, path.open("r+b") as file:
        place = archive.start_dir
        for record in archive.infolist():
            data = _data_place(file, record)
            crc = _crc(file, data, record.file_size)
            if record.CRC and crc != record.CRC:
                _write_number(file, place + CENTRAL_CRC, crc)
                _write_number(file, _local_crc_place(file, record, data), crc)
            place += CENTRAL.size + sum(CENTRAL.unpack(_read(file, place, CENTRAL.size)))


def _data_place(file: BinaryIO, record: zipfile.ZipInfo) -> int:
    lengths = LOCAL.unpack(_read(file, record.header_offset, LOCAL.size))
    return record.header_offset + LOCAL.size + sum(lengths)


def _local_crc_place(file: BinaryIO, record: zipfile.ZipInfo, data: int) -> int:
    """Where the checksum is beside the data: before or after it."""
    if not record.flag_bits & CRC_FOLLOWS:
        return record.header_offset + LOCAL_CRC
    end = data + record.compress_size
    return end + len(DESCRIPTOR) * (_read(file, end, len(DESCRIPTOR)) == DESCRIPTOR)


def _crc(file: BinaryIO, place: int, size: int) -> int:
    file.seek(place)
    crc = 0
    for start in range(0, size, CHUNK):
        crc = zlib.crc32(file.read(min(CHUNK, size - start)), crc)
    return crc


def _read(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


def _write_number(file: BinaryIO, place: int, number: int) -> None:
    file.seek(place)
    file.write(struct.pack("<I", number))


def _compare_others(base: Path, path: Path, changed: Collection[str]) -> int:
    """How many tensors are the same in both files, which all but `changed` must be."""
    sizes = bytes_of(all_tensors(official_again(base)))
    others = {key: size for key, size in sizes.items() if key not in changed}
    for keys in in_groups(others):
        before, after = (all_tensors(official_again(file)) for file in (base, path))
        for key in keys:
            if not same_bits(before[key], after[key]):
                raise WeightsError(
                    "does not read as it was written",
                    file=path,
                    record=key,
                    fix="Check the disk and the memory of this machine",
                )
    return len(others)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)))


def all_tensors(official: OfficialWeights) -> dict[str, Tensor]:
    """The tensors of a file by its own keys."""
    return official.rest | {PREFIX + key: value for key, value in official.detector.items()}
