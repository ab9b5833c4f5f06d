"""Detections of the tiny model in one image, for prompts of a test."""

from pathlib import Path
from typing import Any

import torch

from segtune.core.config import PredictSettings
from segtune.dataset.batch import load_image
from segtune.dataset.coco import read_split
from segtune.dataset.detections import Detection
from segtune.model.architecture import build_model
from segtune.model.inference import PreparedImage, predict

CPU = torch.device("cpu")


def detections(
    coco: Path, prompts: list[str], texts: list[str] | None = None, **settings: Any
) -> list[Detection]:
    """Detections in one image; the category of a prompt is its place in `texts`."""
    texts = texts or prompts
    split = read_split(coco / "test.json")
    pixels, size = load_image(split.image_path(split.images[0]), 96)
    image = PreparedImage(
        id=1,
        pixels=pixels,
        size=size,
        prompts=tuple((texts.index(prompt), prompt) for prompt in prompts),
    )
    chosen = PredictSettings(**{"confidence_threshold": 0.0, **settings})
    ((image_id, found),) = predict(build_model("tiny"), [image], texts, device=CPU, settings=chosen)
    assert {d.image_id for d in found} <= {image_id} == {1}
    return found
