"""Predictions for the pictures of a split, as COCO results."""

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch

from segtune.coco import Image, Split
from segtune.config import PredictSettings
from segtune.dataset import load_image
from segtune.engine import Detection, Picture, predict
from segtune.sam3_package import Sam3Image

Results = list[dict[str, Any]]  # COCO's results format, with `bbox` and `segmentation`


def predict_pictures(
    model: Sam3Image,
    split: Split,
    images: Sequence[Image],
    image_size: int,
    device: torch.device,
    settings: PredictSettings,
) -> Generator[tuple[int, Results], None, None]:
    """Prompt every class of a split on some of its pictures.

    Args:
        model: on `device`.
        split: pictures and classes.
        images: of the split; each is read when its turn comes.
        image_size: side of the model's input, in pixels.
        device: of the model.
        settings: limits of what is kept.

    Yields:
        The id of each picture and what was found on it.
    """
    # All texts of the split, whatever the share: their padding is the same everywhere then.
    texts = sorted({text for image in split.images for text in split.prompts(image).values()})
    found = predict(
        model,
        _pictures(split, images, image_size, texts),
        texts,
        device,
        settings.prompts_per_pass,
        settings.score_threshold,
        settings.max_detections,
    )
    for image_id, detections in found:
        yield image_id, [_result(split, image_id, detection) for detection in detections]


def _pictures(
    split: Split, images: Sequence[Image], image_size: int, texts: list[str]
) -> Iterator[Picture]:
    for image in images:
        pixels, size = load_image(split.image_path(image), image_size)
        asked = split.prompts(image)
        places = tuple(texts.index(asked[category.id]) for category in split.categories)
        yield Picture(image.id, pixels, size, places)


def _result(split: Split, image_id: int, detection: Detection) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": split.categories[detection.prompt].id,
        "bbox": [round(value, 3) for value in detection.bbox_xywh],
        "score": detection.score,
        "segmentation": detection.rle,
    }
