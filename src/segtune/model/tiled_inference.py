"""Predictions on images in tiles: each window is an image to the model, and what it finds in
them is stitched."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch

from segtune.core.config import PredictSettings
from segtune.dataset.batch import resized_pixels
from segtune.dataset.coco import Image, Split
from segtune.dataset.detections import Detection
from segtune.dataset.images import upright_of_size
from segtune.dataset.stitching import stitched
from segtune.dataset.tiles import Tiles, Window
from segtune.model.inference import (
    FoundInImage,
    PreparedImage,
    detect_in_split,
    full_detections,
    predict_images,
)
from segtune.model.sam3_package import Sam3Image

Predicted = Generator[tuple[int, list[Detection]], None, None]


@dataclass(frozen=True, kw_only=True)
class PreparedWindow(PreparedImage):
    """A window to predict on; its id and prompts are those of the image."""

    window: Window


def predictor(tiles: Tiles | None) -> Callable[..., Predicted]:
    """`predict_images`, or with tiles `predict_in_tiles`."""
    return partial(predict_in_tiles, tiles=tiles) if tiles and tiles.side else predict_images


def predict_in_tiles(
    model: Sam3Image,
    split: Split,
    images: Sequence[Image],
    *,
    tiles: Tiles,
    image_size: int,
    device: torch.device,
    settings: PredictSettings,
) -> Predicted:
    """`predict_images` with each image in tiles; detections per prompt are limited in each.

    An image is read once, and its windows are cut when their turn comes.

    Raises:
        DatasetError: when an image cannot be read, or has another size than in the split.
    """
    prepared = (
        window for image in images for window in prepared_windows(split, image, tiles, image_size)
    )
    found = detect_in_split(model, split, prepared, device=device, settings=settings, probes={})
    with closing(found):
        for image in images:
            # No more than its own: to look further would encode a window of the next image.
            own = islice(found, len(tiles.windows(image.width, image.height)))
            yield image.id, stitched(map(_full, own), image, overlap=tiles.overlap_pixels)


def prepared_windows(
    split: Split, image: Image, tiles: Tiles, image_size: int
) -> Iterator[PreparedWindow]:
    """The windows of an image, as the model sees them.

    Raises:
        DatasetError: when the image cannot be read, or has another size than in the split.
    """
    pixels = upright_of_size(split.image_path(image), image.width, image.height)
    prompts = tuple(split.prompts(image).items())
    for window in tiles.windows(image.width, image.height):
        crop = pixels.crop((window.left, window.top, window.right, window.bottom))
        yield PreparedWindow(
            id=image.id,
            pixels=resized_pixels(crop, image_size),
            size=(window.height, window.width),
            prompts=prompts,
            window=window,
        )


def _full(found: FoundInImage) -> tuple[Window, list[Detection]]:
    prepared, in_window = found
    assert isinstance(prepared, PreparedWindow)
    return prepared.window, full_detections(prepared, in_window)
