"""Predictions of several processes that survive a killed one, see `core.partial_results`."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from segtune.core.config import PredictSettings
from segtune.core.console import Advance
from segtune.core.errors import WeightsError
from segtune.core.fingerprints import file_digest
from segtune.core.partial_results import add_image, finished_images, new_part
from segtune.core.processes import Processes
from segtune.dataset.coco import Image, Split
from segtune.dataset.detections import to_record
from segtune.dataset.identity import split_digests
from segtune.dataset.tiles import Tiles
from segtune.model.sam3_package import Sam3Image
from segtune.model.tiled_inference import predictor
from segtune.model.weight_files import weights_file


def prediction_fingerprint(
    split: Split,
    *,
    model: str,
    weights: str,
    image_size: int | None,
    settings: PredictSettings,
) -> dict[str, Any]:
    """What predictions depend on besides the code; batches and processes are not part of it.

    Args:
        split: images and categories.
        model: "tiny" or "full".
        weights: see `load_base_model`.
        image_size: side of the model's input, in pixels, if it is not the model's own.
        settings: see `predict_images`.

    Raises:
        DatasetError: when an image is missing.
        WeightsError: when the weights cannot be read.
    """
    file = weights_file(model, weights)
    return {
        "settings": settings.model_dump(mode="json", exclude={"prompts_per_pass"}),
        "model": model,
        "image_size": image_size,
        "weights": weights,
        "weights_sha256": file and file_digest(file, WeightsError, "Check --weights"),
        **split_digests(split),
    }


def images_to_predict(
    folder: Path, fingerprint: dict[str, Any], split: Split, processes: Processes
) -> list[Image]:
    """The images of a split that no earlier process has finished.

    Args:
        folder: of the unfinished results.
        fingerprint: everything that the results depend on; of the main process.
        split: images and categories.
        processes: all of which call this, and get the same.
    """
    # Only one process looks, because others might see lines that are being written.
    done: set[int] = processes.from_main(
        finished_images(folder, fingerprint) if processes.is_main else None
    )
    return [image for image in split.images if image.id not in done]


def predict_into(
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
    """Predict on some images of a split, each of which is written once it is finished.

    Args:
        folder: of the unfinished results.
        model: on `device`.
        split: images and categories.
        images: of the split, those of this process.
        image_size: side of the model's input, in pixels.
        device: of the model.
        settings: see `predict_images`.
        advance: called once for each image.
        tiles: in which each image is seen; None for whole images.
    """
    found = predictor(tiles)(
        model, split, images, image_size=image_size, device=device, settings=settings
    )
    with closing(found), new_part(folder) as part:
        for image_id, detections in found:
            add_image(part, image_id, [to_record(detection) for detection in detections])
            advance()
