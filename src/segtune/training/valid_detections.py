"""Detections for validation: scored often and looked at rarely, so only as exact as that needs.

Masks are compared on a grid of about as many pixels as the model sees, and only detections that
can change a score noticeably are decoded. docs/training.md has what that changes. The evaluation
of a finished training is exact.
"""

from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from segtune.core.config import PredictSettings
from segtune.dataset.batch import Size
from segtune.dataset.coco import Image, Split
from segtune.dataset.detections import Detection
from segtune.dataset.mask_bits import packed_columns
from segtune.dataset.mask_grid import chosen_pixels, grid_size
from segtune.dataset.masks import Rle
from segtune.evaluation.average_precision import MAX_DETECTIONS
from segtune.model.inference import (
    FoundInImage,
    PromptDetections,
    Prompts,
    ReadImage,
    detect_in_split,
    detections_of,
    prepared_images,
)
from segtune.model.sam3_package import Sam3Image
from segtune.training.mask_workers import Compress, mask_workers

MIN_SCORE = 0.005  # of detections; those below hardly change a score
# Of masks that are enlarged together: 8 MB in float32. A CPU takes twice as long with 16 MB, whose
# pages are new each time.
CHUNK_PIXELS = 2**21


def validation_settings(split: Split) -> PredictSettings:
    """Detections that count in AP but those of the lowest confidence."""
    objects = Counter((a.image_id, a.category_id) for a in split.objects)
    return PredictSettings(
        confidence_threshold=MIN_SCORE,
        max_detections=max([MAX_DETECTIONS, *objects.values()]),
    )


def detections_on_grid(
    model: Sam3Image,
    split: Split,
    images: Sequence[Image],
    read: ReadImage,
    *,
    image_size: int,
    device: torch.device,
    probes: Mapping[int, Prompts],
    workers: int,
    images_per_pass: int,
) -> Generator[tuple[int, list[Detection]], None, None]:
    """Prompt every category of a split in some of its images.

    Args:
        model: on `device`.
        split: images and categories.
        images: of the split.
        read: an image, see `prepared_images`.
        image_size: side of the model's input, in pixels.
        device: of the model.
        probes: by image id, see `detect`.
        workers: processes that read images, and as many that compress masks.
        images_per_pass: see `detect`.

    Yields:
        The id of each image and its detections, with boxes in pixels of the image and masks on
        its grid, see `segtune.dataset.mask_grid`.

    Raises:
        DatasetError: when an image cannot be read.
        ResourceError: when a process that compresses masks is killed.
    """
    prepared = prepared_images(split, images, read, probes=probes, workers=workers)
    predictions = detect_in_split(
        model,
        split,
        prepared,
        device=device,
        settings=validation_settings(split),
        probes=probes,
        images_per_pass=images_per_pass,
    )
    return with_masks_on_grid(predictions, images, image_size=image_size, workers=workers)


def with_masks_on_grid(
    predictions: Generator[FoundInImage, None, None],
    images: Sequence[Image],
    *,
    image_size: int,
    workers: int,
) -> Generator[tuple[int, list[Detection]], None, None]:
    """Predictions in some images; arguments and results as of `detections_on_grid`."""
    by_id = {image.id: image for image in images}
    waiting: deque[_ImageTask] = deque()
    with closing(predictions), mask_workers(workers) as compress:
        for prepared, found in predictions:
            image = by_id[prepared.id]
            tasks = [
                _Task(prompt, _compressed(logits, image, grid_size(image, image_size), compress))
                for prompt, logits in found
            ]
            waiting.append(_ImageTask(image.id, tasks))
            while waiting and waiting[0].is_done:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclass(frozen=True)
class _Task:
    """Detections of a prompt whose masks are being compressed."""

    prompt: PromptDetections
    masks: list[Future[list[Rle]]]


@dataclass(frozen=True)
class _ImageTask:
    """Detections in an image whose masks are being compressed."""

    image_id: int
    prompts: list[_Task]

    @property
    def is_done(self) -> bool:
        return all(part.done() for task in self.prompts for part in task.masks)

    def result(self) -> tuple[int, list[Detection]]:
        found: list[Detection] = []
        for task in self.prompts:
            rles = chain.from_iterable(part.result() for part in task.masks)
            found += detections_of(task.prompt, self.image_id, rles)
        return self.image_id, found


def _compressed(
    logits: Tensor, image: Image, size: Size, compress: Compress
) -> list[Future[list[Rle]]]:
    parts = logits.split(max(1, CHUNK_PIXELS // (size[0] * size[1])))
    return [compress(packed_columns(_columns(part, image, size)), size[0]) for part in parts]


def _columns(logits: Tensor, image: Image, size: Size) -> Tensor:
    """(n, width, height) bool, the columns of masks on the grid, from logits (n, h, w).

    These are pixels of the masks that `predict_images` makes: logits are interpolated as there,
    though only at the centers of pixels that are on the grid, and with the axes swapped.
    """
    rows = _interpolated(logits, image.height, size[0])
    # Contiguous: taking single columns of a transposed tensor is many times slower.
    return _interpolated(rows.transpose(1, 2).contiguous(), image.width, size[1]) > 0


def _interpolated(values: Tensor, pixels: int, count: int) -> Tensor:
    """(n, count, m) of values (n, k, m), at `count` of the pixels that take the place of k."""
    places = torch.from_numpy(chosen_pixels(pixels, count)).to(values.device)
    centers = ((places + 0.5) * (values.shape[1] / pixels) - 0.5).clamp(0)
    before = centers.long()
    after = (before + 1).clamp(max=values.shape[1] - 1)
    weights = (centers - before).to(values.dtype)[:, None]
    return values.index_select(1, before).lerp_(values.index_select(1, after), weights)
