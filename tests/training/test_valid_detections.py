"""Detections for validation: pixels of the exact masks, whichever process compresses them."""

import os
import signal
from collections.abc import Callable, Generator, Iterator
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segtune.core.errors import DatasetError, ResourceError
from segtune.core.stop_signal import STOP_SIGNALS
from segtune.dataset.coco import Image, Split, read_split
from segtune.dataset.detections import Detection, Detections
from segtune.dataset.mask_bits import packed_to_rles
from segtune.dataset.mask_grid import grid_size, on_grid, resampled
from segtune.dataset.masks import Rle, segmentation_to_mask
from segtune.model.inference import (
    FoundInImage,
    PreparedImage,
    PromptDetections,
    prepared_images,
    read_pixels,
    with_full_masks,
)
from segtune.model.weights import load_base_model
from segtune.training import mask_workers, valid_detections
from segtune.training.held_out import false_alarms
from segtune.training.mask_workers import mask_workers as started_workers
from segtune.training.selection import valid_scores
from segtune.training.valid_detections import (
    detections_on_grid,
    validation_settings,
    with_masks_on_grid,
)
from tests.converted import write_converted
from tests.module_calls import calls_of
from tests.scenes import OBJECTS, split_of

CPU = torch.device("cpu")
# Of a different number for each image. The first ones are detected: the images show them.
PROBES = {1: [(8, "green disc"), (9, "teapot")], 2: [(7, "red square")], 4: [(9, "teapot")]}
IMAGES = (Image(1, "", 700, 900), Image(2, "", 300, 200), Image(3, "", 1100, 520))


def smooth_logits(count: int, seed: int) -> torch.Tensor:
    """(count, 36, 36) of blobs."""
    noise = torch.randn(count, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (36, 36), mode="bicubic")[:, 0]


def predicted(images: tuple[Image, ...] = IMAGES) -> Generator[FoundInImage, None, None]:
    """Two prompts with five and one detections in each image."""
    for image in images:
        size = (image.height, image.width)
        prepared = PreparedImage(image.id, torch.zeros(0), size=size, prompts=())
        yield prepared, iter([_prompt(1, 5, image.id), _prompt(2, 1, 10 + image.id)])


def _prompt(category: int, count: int, seed: int) -> tuple[PromptDetections, torch.Tensor]:
    scores = [1 - n / 10 for n in range(count)]
    boxes = [(float(n), 0.0, 5.0, 5.0) for n in range(count)]
    return PromptDetections(category, scores, boxes), smooth_logits(count, seed)


def found_on_grid(workers: int = 0) -> dict[int, list[Detection]]:
    return dict(with_masks_on_grid(predicted(), IMAGES, image_size=96, workers=workers))


def test_masks_on_the_grid_are_pixels_of_the_masks_of_a_prediction() -> None:
    exact, grid = dict(with_full_masks(predicted())), found_on_grid()
    assert list(grid) == list(exact) == [1, 2, 3]
    for image in IMAGES:
        size, full = grid_size(image, 96), (image.height, image.width)
        assert (size == full) == (image.id == 2)
        for one, other in zip(exact[image.id], grid[image.id], strict=True):
            assert other.rle["size"] == [*size]
            expected = segmentation_to_mask(resampled(one.rle, full, size), *size)
            assert (segmentation_to_mask(other.rle, *size) != expected).mean() < 1e-4
            assert 0 < expected.mean() < 1
            assert (one.score, one.category_id) == (other.score, other.category_id)
            assert one.bbox_xywh == other.bbox_xywh


@pytest.fixture
def always_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_workers, "OWN_PIXELS", 0)


@pytest.mark.usefixtures("always_workers")
@pytest.mark.parametrize("workers", [0, 2])
def test_neither_workers_nor_portions_change_anything(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = found_on_grid()
    monkeypatch.setattr(valid_detections, "CHUNK_PIXELS", 2 * 512 * 512)
    found = found_on_grid(workers)
    assert list(found) == list(expected)
    assert found == expected


def killed(bits: Any, height: int) -> list[Rle]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def interrupted(bits: Any, height: int) -> list[Rle]:
    # A process that is not forked starts without signals that are blocked.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    for number in STOP_SIGNALS:
        os.kill(os.getpid(), number)
    return packed_to_rles(bits, height)


def failing(bits: Any, height: int) -> list[Rle]:
    raise LookupError("a bug")


@pytest.mark.usefixtures("always_workers")
@pytest.mark.parametrize(("work", "error"), [(killed, ResourceError), (failing, LookupError)])
def test_what_happens_to_a_worker_is_an_error_here(
    work: Callable[..., Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_workers, "packed_to_rles", work)
    with pytest.raises(error):
        found_on_grid(workers=1)


@pytest.mark.usefixtures("always_workers")
def test_signals_that_stop_training_do_not_stop_its_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = found_on_grid()
    monkeypatch.setattr(mask_workers, "packed_to_rles", interrupted)
    assert found_on_grid(workers=1) == expected


@pytest.mark.usefixtures("always_workers")
def test_few_masks_wait_at_a_time() -> None:
    bits = np.zeros((1, 2, 1), np.uint8)
    with started_workers(1) as compress:
        parts = []
        for _ in range(50):
            parts.append(compress(bits, 8))
            assert sum(not part.done() for part in parts) <= mask_workers.WAITING
        assert {len(part.result()) for part in parts} == {1}


def test_processes_start_only_for_more_masks_than_they_are_worth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bits = np.full((3, 8, 2), 0xFF, np.uint8)  # 3 masks of 8 x 16 pixels
    monkeypatch.setattr(mask_workers, "OWN_PIXELS", 2 * 8 * bits.size)
    before = set(active_children())  # of other tests
    with started_workers(1) as compress:
        parts = [compress(bits, 16), compress(bits, 16)]
        assert set(active_children()) <= before
        parts.append(compress(bits, 16))
        assert len(set(active_children()) - before) == 1
        assert parts[0].result() == parts[1].result() == parts[2].result()


def test_as_many_detections_count_as_in_average_precision() -> None:
    assert validation_settings(split_of(OBJECTS)).max_detections == 100
    crowded = split_of([(1, 1, (n % 90, n // 90, 5, 5)) for n in range(120)])
    assert validation_settings(crowded).max_detections == 120


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("converted")
    return read_split(write_converted(folder, {"valid": 4}) / "valid.json")


def test_data_workers_change_nothing(valid: Split) -> None:
    predict = partial(
        detections_on_grid,
        load_base_model("tiny", "default"),
        valid,
        valid.images,
        partial(read_pixels, valid, image_size=96),
        image_size=96,
        device=CPU,
        probes={1: [(9, "teapot")]},
        images_per_pass=2,
    )
    alone, helped = (list(predict(workers=workers)) for workers in (0, 1))
    assert alone == helped
    assert [image_id for image_id, _ in alone] == [1, 2, 3, 4]
    scores = [found.score for _, in_image in alone for found in in_image]
    assert scores and min(scores) >= valid_detections.MIN_SCORE


def test_images_are_detected_together_as_one_by_one(valid: Split) -> None:
    model = load_base_model("tiny", "default")

    def read(image: Image) -> tuple[torch.Tensor, tuple[int, int]]:
        # A size of its own, in which its boxes are.
        return read_pixels(valid, image, image_size=96)[0], (64, 64 * image.id)

    def detected(images_per_pass: int) -> tuple[list[tuple[int, list[Detection]]], int, int]:
        predictions = detections_on_grid(
            model,
            valid,
            valid.images,
            read,
            image_size=96,
            device=CPU,
            probes=PROBES,
            workers=0,
            images_per_pass=images_per_pass,
        )
        trunk, decoder = model.backbone.vision_backbone.trunk, model.transformer.decoder
        with calls_of(trunk) as images, calls_of(decoder) as prompts:
            return list(predictions), len(images), len(prompts)

    single, *single_passes = detected(1)
    together, *passes = detected(3)
    # Three classes in each of three images, of which eight are one pass, and in the last image.
    assert (single_passes, passes) == ([4, 4 + 3], [2, 2 + 1 + 1 + 1])
    assert [image_id for image_id, _ in together] == [image_id for image_id, _ in single]
    found, expected = ([d for _, in_image in some for d in in_image] for some in (together, single))
    for one, other in zip(found, expected, strict=True):
        assert (one.image_id, one.category_id) == (other.image_id, other.category_id)
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.bbox_xywh == pytest.approx(other.bbox_xywh, abs=1e-2)
        masks = [segmentation_to_mask(d.rle, 64, 64) for d in (one, other)]
        assert (masks[0] != masks[1]).mean() < 1e-3
    alarms, expected_alarms = (false_alarms(valid, some, PROBES) for some in (found, expected))
    assert alarms == expected_alarms
    assert alarms.held_out_nouns


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_gone_is_an_error_when_its_turn_comes(
    tmp_path: Path, workers: int
) -> None:
    split = read_split(write_converted(tmp_path, {"valid": 3}) / "valid.json")
    (tmp_path / "valid" / "2.png").unlink()
    prepared: Iterator[PreparedImage] = prepared_images(
        split,
        split.images,
        partial(read_pixels, split, image_size=96),
        probes={},
        workers=workers,
    )
    assert next(prepared).id == 1
    with pytest.raises(DatasetError) as raised:
        next(prepared)
    assert raised.value.file == str(tmp_path / "valid" / "2.png")
    assert "Traceback" not in str(raised.value)


def test_scores_on_the_grid_are_those_of_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Half of the sides, so that a grid of 512 does not hide a shift of half a pixel.
    monkeypatch.setattr("segtune.dataset.mask_grid.MIN_SIDE", 50)
    split = split_of(OBJECTS)
    grid = on_grid(split, 50)
    found = [
        Detection(a.image_id, a.category_id, 0.9, a.bbox_xywh, a.segmentation)
        for a in grid.objects
        if isinstance(a.segmentation, dict)
    ]
    boxes = {(a.image_id, a.category_id): a.bbox_xywh for a in split.objects}
    whole = Detections(
        Detection(d.image_id, d.category_id, d.score, boxes[d.image_id, d.category_id], d.rle)
        for d in found
    )
    assert [d.rle["size"] for d in whole] == [[50, 50]] * 2
    totals = valid_scores(split, grid, whole).totals()
    assert totals == pytest.approx({"box_AP": 1, "mask_AP": 1, "cgF1": 1}, abs=1e-3)
