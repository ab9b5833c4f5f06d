"""Predictions for every picture of a split, as COCO results."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from segtune.coco import Split
from segtune.config import PredictSettings
from segtune.dataset import load_image
from segtune.engine import Detection, Picture, predict
from segtune.reporting import Advance
from segtune.sam3_package import Sam3Image


def predict_split(
    model: Sam3Image,
    split: Split,
    image_size: int,
    device: torch.device,
    settings: PredictSettings,
    advance: Advance,
    share: slice = slice(None),
    stop_wanted: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """Prompt every class on every picture.

    Args:
        model: on `device`.
        split: pictures and classes.
        image_size: side of the model's input, in pixels.
        device: of the model.
        settings: limits of what is kept.
        advance: told after each picture.
        share: which of the pictures are this process's.
        stop_wanted: asked after each picture; a yes ends the list early.

    Returns:
        COCO's results format, with `bbox` and `segmentation` in each record.
    """
    texts = sorted({text for image in split.images for text in split.prompts(image).values()})
    results: list[dict[str, Any]] = []
    for image_id, detections in predict(
        model,
        _pictures(split, image_size, texts, share),
        texts,
        device,
        settings.prompts_per_pass,
        settings.score_threshold,
        settings.max_detections,
    ):
        results += [_result(split, image_id, detection) for detection in detections]
        advance()
        if stop_wanted():
            break
    return results


def _pictures(split: Split, image_size: int, texts: list[str], share: slice) -> Iterator[Picture]:
    for image in split.images[share]:
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
