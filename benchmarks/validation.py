"""What masks cost in a validation while training, and in a prediction, without the model.

`python -m benchmarks.validation` enlarges and compresses the masks of random ellipses, at the
logits' resolution and the input size of the full model, and prints CPU seconds per image of the
process that runs the model; `--workers N` has N processes compress those of validation.
"""

import argparse
import time
from collections.abc import Generator, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from segtune.core.processes import local_device
from segtune.dataset.coco import Image
from segtune.model.inference import (
    FoundInImage,
    PreparedImage,
    PromptDetections,
    with_full_masks,
)
from segtune.training.valid_detections import with_masks_on_grid

IMAGE_SIZE, LOGITS_SIDE = 1008, 288  # pixels, of the full model
SIZES = {"1080p": (1080, 1920), "12 MP": (3000, 4000)}  # (height, width) in pixels
COUNTS = (50, 500)  # detections
PROMPTS = 10  # among which they are shared


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print one line for each size and number of detections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--images", type=int, default=1)
    arguments = parser.parse_args(argv)
    device, images = local_device(), arguments.images
    for name, (height, width) in SIZES.items():
        known = [Image(number, "", width, height) for number in range(images)]
        on_grid = partial(
            with_masks_on_grid, images=known, image_size=IMAGE_SIZE, workers=arguments.workers
        )
        for count in COUNTS:
            logits = ellipses(count, device)
            full, grid = (
                seconds(process(predictions(known, logits))) / images
                for process in (with_full_masks, on_grid)
            )
            print(f"{name}, {count} masks: full size {full:.3f} s, on the grid {grid:.3f} s")


def ellipses(count: int, device: torch.device) -> Tensor:
    """(count, 288, 288) logits, positive inside of ellipses of 20 to 200 pixels of the input."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(4, count, 1, 1, generator=generator)
    centers, radii = drawn[:2], (10 + 90 * drawn[2:]) / IMAGE_SIZE
    axis = (torch.arange(LOGITS_SIDE) + 0.5) / LOGITS_SIDE
    across, down = (axis - centers[0]) / radii[0], (axis[:, None] - centers[1]) / radii[1]
    return (5 - 5 * (across**2 + down**2)).to(device)


def predictions(images: Sequence[Image], logits: Tensor) -> Generator[FoundInImage, None, None]:
    """As from the model: the same detections in each image."""
    for image in images:
        prepared = PreparedImage(
            image.id, torch.zeros(0), size=(image.height, image.width), prompts=()
        )
        yield (
            prepared,
            (
                (PromptDetections(1, [1.0] * len(part), [(0, 0, 1, 1)] * len(part)), part)
                for part in logits.chunk(PROMPTS)
            ),
        )


def seconds(detections: Iterable[object]) -> float:
    """Of this process, to go through all of them."""
    began = time.process_time()
    for _ in detections:
        pass
    return time.process_time() - began


if __name__ == "__main__":
    main()
