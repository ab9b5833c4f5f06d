"""Features of images on the disk: what the frozen vision blocks make of each view of an image.

A store is a folder of shards. A shard is a safetensors file of many features, read through memory
mapping, and named after the SHA-256 of its content, so that a damaged one shows. The name of the
folder is a digest of all that features depend on besides the images, which are known by the SHA-256
of their files: features of other weights or other code cannot be taken for these.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from segtune.core.atomic import atomic_path
from segtune.core.errors import DatasetError
from segtune.core.fingerprints import json_digest
from segtune.core.foreign import reason
from segtune.dataset.coco import Image, Manifest
from segtune.training.augment import View

SHARD_BYTES = 256_000_000  # about; they are in memory while they are written
SUFFIX = ".safetensors"
TENSOR = "features"  # (records, h, w, C)
RECORDS = "records"  # their names, as JSON


class Records:
    """The names of features: one for each view of each image file."""

    def __init__(self, manifest: Manifest) -> None:
        self._digests = {entry.path: entry.sha256 for entry in manifest.images}

    def name(self, image: Image, view: View) -> str:
        """Of the features of a view.

        Raises:
            DatasetError: when the image is not in the manifest.
        """
        digest = self._digests.get(image.file_name)
        if digest is None:
            raise DatasetError(
                "not in the manifest", file=image.file_name, fix="Run segtune.convert again"
            )
        return f"{digest} {view.side} {'mirrored' if view.mirrored else 'upright'}"


class FeatureStore:
    """The features of a folder of intact shards, by image and view; can be sent to data workers.

    Args:
        folder: of the shards.
        records: their names.
    """

    def __init__(self, folder: Path, records: Records) -> None:
        self._records = records
        self._places = {
            name: (path, row)
            for path in shards(folder)
            for row, name in enumerate(shard_records(path))
        }

    def read(self, image: Image, view: View) -> Tensor:
        """The features (h, w, C) of a view.

        Raises:
            DatasetError: when they are not there any more.
        """
        path, row = self._places[self._records.name(image, view)]
        try:
            with safe_open(path, "pt") as shard:
                found: Tensor = shard.get_slice(TENSOR)[row]
        except (OSError, SafetensorError) as error:
            raise DatasetError(
                f"cannot read the features ({reason(error)})",
                file=path,
                record=image.file_name,
                fix="Run the same command again, which computes them",
            ) from None
        return found


def store_folder(features: Path, key: Mapping[str, Any]) -> Path:
    """The folder below `features` for what depends on `key`."""
    return features / json_digest(key)


def shards(folder: Path) -> list[Path]:
    """The shards of a store that may not exist yet."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.is_file())


def is_store(folder: Path) -> bool:
    """Whether a folder is named like a store and has nothing but shards."""
    if not re.fullmatch(r"[0-9a-f]{16}", folder.name) or not folder.is_dir():
        return False
    return all(re.fullmatch(rf"[0-9a-f]{{64}}{SUFFIX}", path.name) for path in folder.iterdir())


def shard_records(path: Path) -> list[str]:
    """The names of the features in a shard, row by row; none in one that is damaged."""
    try:
        with safe_open(path, "pt") as shard:
            names: list[str] = json.loads(shard.metadata()[RECORDS])
    except (OSError, SafetensorError, LookupError, TypeError, ValueError):
        return []
    return names


def is_intact(path: Path) -> bool:
    """Whether a shard has the content that it was written with."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == path.stem


def write_shards(folder: Path, features: Iterable[tuple[str, Tensor]]) -> Iterator[int]:
    """Write features (h, w, C) with their names, shard by shard; yields how many are written.

    Raises:
        ResourceError: when the disk is full.
    """
    waiting: dict[str, Tensor] = {}
    for name, tensor in features:
        waiting[name] = tensor
        if len(waiting) * tensor.nbytes >= SHARD_BYTES:
            yield _write(folder, waiting)
            waiting = {}
    if waiting:
        yield _write(folder, waiting)


def _write(folder: Path, features: Mapping[str, Tensor]) -> int:
    metadata = {RECORDS: json.dumps(list(features))}
    content = save({TENSOR: torch.stack(list(features.values()))}, metadata)
    name = hashlib.sha256(content).hexdigest() + SUFFIX
    with atomic_path(folder / name) as temporary:
        temporary.write_bytes(content)
    return len(features)


def known_records(paths: Sequence[Path]) -> set[str]:
    """The names of all features in some shards."""
    return {name for path in paths for name in shard_records(path)}
