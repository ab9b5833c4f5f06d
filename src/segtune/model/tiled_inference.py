"""Predictions on images in tiles: each window is an image to the model, and what it finds in
them is stitched."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby

import torch

from segtune.core.config import PredictSettings
from segtune.dataset.batch import resized_pixels
from segtune.dataset.coco import Image, Split
from segtune.dataset.detections import Detection
from segtune.dataset.images import upright_rgb
from segtune.dataset.stitching import stitched
from segtune.dataset.tiles import Tiles, Window
from segtune.model.inference import (
    FoundInImage,
    PreparedImage,
    detect_in_split,
    full_detections,
)
from segtune.model.sam3_package import Sam3Image


@dataclass(frozen=True, kw_only=True)
class _PreparedWindow(PreparedImage):
    """A window to predict on; its id and prompts are those of the image."""

    window: Window
    image: Image


def predict_in_tiles(
    model: Sam3Image,
    split: Split,
    images: Sequence[Image],
    *,
    tiles: Tiles,
    image_size: int,
    device: torch.device,
    settings: PredictSettings,
) -> Generator[tuple[int, list[Detection]], None, None]:
    """`predict_images` with each image in tiles; detections per prompt are limited in each.

    An image is read once, and its windows are cut when their turn comes.
    """
    prepared = (window for image in images for window in _windows(split, image, tiles, image_size))
    found = detect_in_split(model, split, prepared, device=device, settings=settings, probes={})
    with closing(found):
        # One at a time: what is found in a window must be taken before the next one.
        for image, in_windows in groupby(_full(found), key=lambda item: item[0].image):
            pieces = ((w.window, own) for w, own in in_windows)
            yield image.id, stitched(pieces, image, overlap=tiles.overlap_pixels)


def _windows(
    split: Split, image: Image, tiles: Tiles, image_size: int
) -> Iterator[_PreparedWindow]:
    pixels = upright_rgb(split.image_path(image))
    prompts = tuple(split.prompts(image).items())
    for window in tiles.windows(*pixels.size):
        crop = pixels.crop((window.left, window.top, window.right, window.bottom))
        yield _PreparedWindow(
            id=image.id,
            pixels=resized_pixels(crop, image_size),
            size=(window.height, window.width),
            prompts=prompts,
            window=window,
            image=image,
        )


def _full(
    found: Iterator[FoundInImage],
) -> Iterator[tuple[_PreparedWindow, list[Detection]]]:
    for prepared, in_window in found:
        assert isinstance(prepared, _PreparedWindow)
        yield prepared, full_detections(prepared, in_window)
