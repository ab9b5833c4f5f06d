"""The processes that read data for training end with it."""

import multiprocessing
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from segtune.dataset.coco import read_split
from segtune.training import prompted_images
from segtune.training.augment import Augmentation
from segtune.training.prompted_images import PromptedImages, training_batches
from tests.converted import SIDE, write_converted
from tests.forked import Forked
from tests.running import is_running


def prompted(split: Path) -> PromptedImages:
    return PromptedImages(
        read_split(split),
        image_size=SIDE,
        max_negatives=0,
        extra_negatives=(),
        augmentation=Augmentation(),
        seed=0,
    )


def hold_a_worker(arguments: list[str]) -> None:
    """Train with a worker that reads for a minute, so that it cannot look for its parent."""
    # As in a process of its own; a daemon, as this is one, may not have workers.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    multiprocessing.set_start_method("fork", force=True)

    def read(self: PromptedImages, item: object) -> None:
        Path(arguments[1]).write_text(str(os.getpid()))
        time.sleep(60)

    PromptedImages.__getitem__ = read  # type: ignore[assignment, method-assign]
    data = prompted(Path(arguments[0]))
    next(training_batches(data, [[(0, 0)]], epoch=0, micro_batch_size=1, workers=1))


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl")
def test_a_worker_does_not_outlive_training_that_is_killed(tmp_path: Path) -> None:
    # It would hold the connections and leases, so that nobody noticed.
    pid = tmp_path / "pid"
    process = Forked(hold_a_worker, [str(write_converted(tmp_path) / "train.json"), str(pid)])
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    deadline = time.monotonic() + 10
    while is_running(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(int(pid.read_text()))


def test_what_workers_get_can_be_sent_to_a_process_that_is_not_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def record(dataset: PromptedImages, **options: Any) -> list[Any]:
        given.update(options, dataset=dataset)
        return []

    monkeypatch.setattr(prompted_images, "DataLoader", record)
    data = prompted(write_converted(tmp_path) / "train.json")
    assert not list(training_batches(data, [[(0, 0)]], epoch=0, micro_batch_size=1, workers=1))
    for name in ("dataset", "collate_fn", "worker_init_fn"):
        pickle.dumps(given[name])
