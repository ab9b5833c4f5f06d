"""Compute what the frozen vision blocks make of the images, once for all epochs of training.

Needs `cache_features` in the train section. The same command completes what is there: images that
are new, and shards that are damaged. Features that these settings do not need are removed. SIGINT
and SIGTERM stop it; what is computed by then stays.
"""

import argparse
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from segtune.core.atomic import disk_problems, write_json
from segtune.core.config import TrainSettings, frozen_vision_blocks, parse_train
from segtune.core.console import log_line
from segtune.core.errors import ConfigError, exit_on_error
from segtune.core.gpu_memory import memory_errors
from segtune.core.processes import Processes, process_group
from segtune.core.stop_signal import INTERRUPTED_STATUS, StopSignal
from segtune.dataset.coco import read_manifest, read_split
from segtune.model.architecture import ARCHITECTURES, set_image_size
from segtune.model.frozen_weights import store_frozen_in
from segtune.model.precision import autocast_dtype
from segtune.model.weights import load_base_model
from segtune.training.engine import Interrupted
from segtune.training.failures import StepFailed, agreed, attempt
from segtune.training.feature_store import (
    Records,
    is_store,
    shard_records,
    shards,
    store_folder,
)
from segtune.training.features import (
    Prefix,
    Wanted,
    complete_features,
    feature_key,
    wanted_views,
)

INDEX = "index.json"


def main(argv: Sequence[str] | None = None) -> None:
    """Complete the features, then write `index.json`, which says what they are of."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("features"):
        settings = parse_train(arguments.model, arguments.settings)
        if not settings.cache_features:
            raise ConfigError("train.cache_features is false", fix="Set it, or skip this command")
        with process_group() as processes, memory_errors():
            try:
                _complete(arguments, settings, processes, StopSignal())
            except StepFailed as failed:
                raise failed.error from None
            except Interrupted:
                if processes.is_main:
                    log_line("stopped; the same command computes the features that are missing")
                raise SystemExit(INTERRUPTED_STATUS) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.features", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument("--out", type=Path, required=True, help="folder for the features")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="tiny")
    parser.add_argument("--weights", default="default", help="see config.yaml")
    parser.add_argument("--image-size", type=int, help="side of the input, in pixels")
    parser.add_argument("--settings", default="{}", help="the train section, as JSON")
    parser.add_argument("--workers", type=int, default=0, help="data loaders per process")
    return parser


def _complete(
    arguments: argparse.Namespace,
    settings: TrainSettings,
    processes: Processes,
    stop_wanted: Callable[[], bool],
) -> None:
    train, valid = (read_split(arguments.coco / f"{name}.json") for name in ("train", "valid"))
    records = Records(read_manifest(arguments.coco))
    prefix = _prefix(arguments, settings, processes)
    wanted = wanted_views(train, valid, settings, image_size=prefix.image_size, records=records)
    key = feature_key(arguments.model, arguments.weights, prefix, processes)
    folder = store_folder(arguments.out, key)
    # All processes wait for the first one: nobody reads what is being removed.
    agreed(attempt(partial(_remove_unwanted, folder, wanted, processes)), processes)
    complete_features(
        prefix,
        wanted,
        folder,
        processes=processes,
        workers=arguments.workers,
        stop_wanted=stop_wanted,
    )
    if processes.is_main:
        found = shards(folder)
        gigabytes = sum(path.stat().st_size for path in found) / 1e9
        index = {"folder": folder.name, "shards": len(found), "gigabytes": round(gigabytes, 3)}
        write_json(arguments.out / INDEX, {**index, "views": len(wanted), "key": key})


def _prefix(arguments: argparse.Namespace, settings: TrainSettings, processes: Processes) -> Prefix:
    model = load_base_model(arguments.model, arguments.weights)
    image_size = set_image_size(model, arguments.model, arguments.image_size)
    store_frozen_in(model.requires_grad_(False), autocast_dtype(processes.device))
    blocks = frozen_vision_blocks(settings, arguments.model)
    return Prefix(model.to(processes.device), blocks, image_size, processes.device)


def _remove_unwanted(folder: Path, wanted: Sequence[Wanted], processes: Processes) -> None:
    """Let one process remove shards without a wanted view, and the stores of other settings.

    Each store is as large, and can be computed again.
    """
    if not processes.is_main:
        return
    names = {one.name for one in wanted}
    with disk_problems(folder):
        for path in shards(folder):
            if names.isdisjoint(shard_records(path)):
                path.unlink()
        for other in folder.parent.glob("*/"):
            if other != folder and is_store(other):
                shutil.rmtree(other)


if __name__ == "__main__":
    main()
