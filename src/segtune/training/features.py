"""Features computed once: for every view of the training images, and for the valid images.

A store is completed, not rebuilt: damaged shards and missing views are computed, by all processes
together, and the rest stays. So an interrupted run resumes, and new images are all that a new
version of a dataset costs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtune.core.atomic import disk_problems
from segtune.core.config import TrainSettings
from segtune.core.console import log_line, progress
from segtune.core.errors import WeightsError
from segtune.core.fingerprints import code_fingerprints, file_digest
from segtune.core.processes import Processes
from segtune.core.publishing import require_space
from segtune.dataset.batch import load_image
from segtune.dataset.coco import Image, Split
from segtune.dataset.data_workers import read_ahead
from segtune.model.frozen_prefix import encode_prefix, stored_dtype
from segtune.model.precision import autocast_dtype
from segtune.model.sam3_package import Sam3Image
from segtune.model.weight_files import weights_file
from segtune.training.augment import Augmentation, View, framed
from segtune.training.engine import Interrupted
from segtune.training.failures import agreed, attempt
from segtune.training.feature_store import (
    Records,
    is_intact,
    known_records,
    shards,
    write_shards,
)

PACKAGES = ("torch", "torchvision", "sam3", "pillow")  # that features depend on


@dataclass(frozen=True)
class Wanted:
    """A view of an image whose features are wanted."""

    name: str  # of the record
    image: Image
    path: Path
    view: View


def wanted_views(
    train: Split, valid: Split, settings: TrainSettings, *, image_size: int, records: Records
) -> list[Wanted]:
    """Every view that training may read, each once."""
    augmentation = Augmentation(
        horizontal_flip=settings.horizontal_flip,
        min_scale=settings.min_scale,
        scale_views=settings.scale_views,
    )
    views = [
        (train, image, view)
        for image in train.images
        for view in augmentation.views(image.file_name, image_size, settings.seed)
    ]
    views += [(valid, image, View(image_size)) for image in valid.images]
    found = {}
    for split, image, view in views:
        name = records.name(image, view)
        found[name] = Wanted(name, image, split.image_path(image), view)
    return list(found.values())


@dataclass(frozen=True)
class Prefix:
    """The part of a model that computes features."""

    model: Sam3Image  # whole
    blocks: int  # of the trunk, from the first one on
    image_size: int  # pixels
    device: torch.device

    @property
    def nbytes(self) -> int:
        """The size of the features of one view."""
        trunk = self.model.backbone.vision_backbone.trunk
        patches: int = (self.image_size // trunk.patch_embed.proj.kernel_size[0]) ** 2
        return patches * int(trunk.pos_embed.shape[-1]) * stored_dtype(self.device).itemsize


def feature_key(model: str, weights: str, prefix: Prefix, processes: Processes) -> dict[str, Any]:
    """All that features depend on, besides images and views.

    Args:
        model: "tiny" or "full".
        weights: the setting.
        prefix: that computes them.
        processes: of which only the first reads the weights.

    Raises:
        WeightsError: when the weights cannot be read.
    """
    path = weights_file(model, weights)
    digest = processes.from_main(
        file_digest(path, WeightsError, "Check --weights")
        if path and processes.is_main
        else weights
    )
    return {
        "model": model,
        "weights": digest,
        "image_size": prefix.image_size,
        "blocks": prefix.blocks,
        "device": prefix.device.type,
        "computed_in": str(autocast_dtype(prefix.device)),
        "stored_in": str(stored_dtype(prefix.device)),
        "packages": {name: version(name) for name in PACKAGES},
        "code": code_fingerprints("features"),
    }


def complete_features(
    prefix: Prefix,
    wanted: Sequence[Wanted],
    folder: Path,
    *,
    processes: Processes,
    workers: int,
    stop_wanted: Callable[[], bool],
) -> None:
    """Compute the features that a store lacks, after its damaged shards have been removed.

    Args:
        prefix: on the device of this process.
        wanted: the same in all processes.
        folder: of the store.
        processes: among which the work is divided.
        workers: data processes of each.
        stop_wanted: called after each view; true in any process stops all of them.

    Raises:
        StepFailed: when an image, the memory or the disk failed in any process; nothing is
            computed if the disk has too little space.
        Interrupted: when any process wanted to stop; what was computed is kept.
    """
    agreed(attempt(partial(_remove_damaged, folder, processes)), processes)
    present = known_records(shards(folder))
    missing = [one for one in wanted if one.name not in present]
    processes.gather(None)  # nobody writes before all have looked
    if missing:
        needed = len(missing) * prefix.nbytes
        agreed(attempt(partial(_require_space, folder, needed, len(missing), processes)), processes)
        own = missing[processes.rank :: processes.count]
        computed = _computed(prefix, own, workers=workers, stop_wanted=stop_wanted)
        work = partial(_write, folder, computed, views=len(own), visible=processes.is_main)
        agreed(attempt(work), processes)
        if any(processes.sum([stop_wanted()])):
            raise Interrupted


def _remove_damaged(folder: Path, processes: Processes) -> None:
    """Check the shards, each by one process."""
    for path in shards(folder)[processes.rank :: processes.count]:
        with disk_problems(path):
            if not is_intact(path):
                log_line(f"WARNING: {path} is damaged; its features are computed again")
                path.unlink()


def _require_space(folder: Path, needed: int, views: int, processes: Processes) -> None:
    if processes.is_main:
        log_line(f"features of {views} views to compute: {needed / 1e9:.2f} GB of disk")
        require_space(folder, needed)


def _write(
    folder: Path, computed: Iterator[tuple[str, Tensor]], *, views: int, visible: bool
) -> None:
    done = write_shards(folder, computed)
    with progress("features of view", views, visible=visible) as advance:
        for count in done:
            for _ in range(count):
                advance()


def _computed(
    prefix: Prefix,
    wanted: Sequence[Wanted],
    *,
    workers: int,
    stop_wanted: Callable[[], bool],
) -> Iterator[tuple[str, Tensor]]:
    """The features (h, w, C) of views, one at a time, so that they depend on nothing else."""
    read = partial(_pixels, image_size=prefix.image_size)
    for one, pixels in zip(wanted, read_ahead(read, wanted, workers=workers), strict=True):
        if stop_wanted():
            return
        images = pixels[None].to(prefix.device)
        yield one.name, encode_prefix(prefix.model, images, prefix.blocks)[0].cpu()


def _pixels(one: Wanted, image_size: int) -> Tensor:
    """(3, S, S) uint8."""
    pixels, _ = load_image(one.path, one.view.side)
    return framed(pixels, one.view, image_size)
