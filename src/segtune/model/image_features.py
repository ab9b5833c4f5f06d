"""One vector of each image's content, from the encoding that its prompts are detected in anyway."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtune.core.config import PredictSettings
from segtune.core.console import Advance
from segtune.core.partial_results import add_image, new_part
from segtune.dataset.coco import Image, Split
from segtune.dataset.detections import Detection, to_record
from segtune.dataset.tiles import Tiles
from segtune.model.components import SCALES_READ
from segtune.model.forward import encode_images, evaluating
from segtune.model.precision import mixed_precision
from segtune.model.sam3_package import Sam3Image
from segtune.model.tiled_inference import predictor, prepared_windows

DECIMALS = 6  # of a vector's numbers

Described = tuple[int, list[float], list[Detection]]  # an image's id, its vector, what is in it


class EncodedImages:
    """The feature maps of what a model has encoded, as long as nobody has taken them."""

    def __init__(self) -> None:
        self._means: list[Tensor] = []  # (B, C) each

    def add(self, features: Tensor) -> None:
        """Note a feature map (B, C, h, w)."""
        self._means.append(features.float().mean((2, 3)).cpu())

    def take(self) -> list[float]:
        """The vector of all that was encoded since the last call: C numbers, of length 1.

        The parts of an image that was encoded in parts count equally.
        """
        mean = torch.cat(self._means).mean(0)
        self._means.clear()
        return [round(value, DECIMALS) for value in F.normalize(mean, dim=0).tolist()]


@contextmanager
def encoded_images(model: Sam3Image) -> Iterator[EncodedImages]:
    """Within, every image that a model encodes leaves its vector; nothing is computed twice.

    The vector is the mean over the positions of the vision neck's smallest feature map that is
    read, the one in which prompts are detected, in float32 and scaled to length 1.
    """
    found = EncodedImages()

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        found.add(output)

    # The package calls the neck's `forward` itself, which no hook of the neck would notice.
    hook = model.backbone.vision_backbone.convs[SCALES_READ - 1].register_forward_hook(note)
    try:
        yield found
    finally:
        hook.remove()


def described_images(
    model: Sam3Image,
    split: Split,
    images: Sequence[Image],
    *,
    image_size: int,
    device: torch.device,
    settings: PredictSettings,
    tiles: Tiles | None = None,
) -> Generator[Described, None, None]:
    """Describe some images of a split: each is encoded once.

    Args:
        model: on `device`.
        split: images and categories; without categories, nothing is detected.
        images: of the split; each is only read when its turn comes.
        image_size: side of the model's input, in pixels.
        device: of the model.
        settings: see `predict_images`.
        tiles: in which each image is seen; None for whole images.

    Yields:
        The id of each image, its vector, see `encoded_images`, and its detections.

    Raises:
        DatasetError: when an image cannot be read.
    """
    found = (
        predictor(tiles)(
            model, split, images, image_size=image_size, device=device, settings=settings
        )
        if split.categories
        else _only_encoded(model, split, images, image_size=image_size, device=device, tiles=tiles)
    )
    with encoded_images(model) as encoded, closing(found):
        for image_id, detections in found:
            yield image_id, encoded.take(), detections


def _only_encoded(
    model: Sam3Image,
    split: Split,
    images: Sequence[Image],
    *,
    image_size: int,
    device: torch.device,
    tiles: Tiles | None,
) -> Generator[tuple[int, list[Detection]], None, None]:
    everything = tiles or Tiles(side=None, overlap=0.5)  # one window
    with evaluating(model), torch.inference_mode(), mixed_precision(device):
        for image in images:
            for window in prepared_windows(split, image, everything, image_size):
                encode_images(model, window.pixels[None].to(device))
            yield image.id, []


def describe_into(
    folder: Path,
    model: Sam3Image,
    split: Split,
    images: Sequence[Image],
    *,
    image_size: int,
    device: torch.device,
    settings: PredictSettings,
    advance: Advance,
    tiles: Tiles | None = None,
) -> None:
    """Describe some images of a split, each of which is written once it is finished.

    Its first record has its `vector`, and the others are its detections.

    Args:
        folder: of the unfinished results, see `core.partial_results`.
        model: on `device`.
        split: images and categories; without categories, nothing is detected.
        images: of the split, those of this process.
        image_size: side of the model's input, in pixels.
        device: of the model.
        settings: see `predict_images`.
        advance: called once for each image.
        tiles: in which each image is seen; None for whole images.
    """
    found = described_images(
        model,
        split,
        images,
        image_size=image_size,
        device=device,
        settings=settings,
        tiles=tiles,
    )
    with closing(found), new_part(folder) as part:
        for image_id, vector, detections in found:
            records = [to_record(detection) for detection in detections]
            add_image(part, image_id, [{"vector": vector}, *records])
            advance()
