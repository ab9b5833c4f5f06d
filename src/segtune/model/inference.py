"""Predictions on the images of a split: every image is encoded once, whatever the prompts."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.core.config import PredictSettings
from segtune.dataset.batch import Size, load_image
from segtune.dataset.coco import Image, Split
from segtune.dataset.detections import Detection
from segtune.dataset.masks import BoxXywh, mask_to_rle
from segtune.model.forward import (
    detect_encoded,
    encode_images,
    encode_prompts,
    evaluating,
    mixed_precision,
)
from segtune.model.mask_decoding import limit_masks
from segtune.model.sam3_package import Sam3Image

BOX_DECIMALS = 3  # of a pixel


@dataclass(frozen=True)
class PreparedImage:
    """An image to predict on."""

    id: int
    pixels: Tensor  # (3, S, S), normalized
    size: Size  # (height, width) of the original, in pixels
    prompts: Sequence[tuple[int, str]]  # category id and text


def predict_images(
    model: Sam3Image,
    split: Split,
    images: Sequence[Image],
    *,
    image_size: int,
    device: torch.device,
    settings: PredictSettings,
) -> Generator[tuple[int, list[Detection]], None, None]:
    """Prompt every category of a split in some of its images.

    Args:
        model: on `device`.
        split: images and categories.
        images: of the split; each is read when its turn comes.
        image_size: side of the model's input, in pixels.
        device: of the model.
        settings: limits of what is kept.

    Yields:
        The id of each image and its detections.
    """
    # All texts of the split, whichever images: their padding is the same everywhere then.
    texts = sorted({text for image in split.images for text in split.prompts(image).values()})
    prepared = (_prepared(split, image, image_size) for image in images)
    return predict(model, prepared, texts, device=device, settings=settings)


def _prepared(split: Split, image: Image, image_size: int) -> PreparedImage:
    pixels, size = load_image(split.image_path(image), image_size)
    return PreparedImage(image.id, pixels, size, tuple(split.prompts(image).items()))


def predict(
    model: Sam3Image,
    images: Iterable[PreparedImage],
    texts: Sequence[str],
    *,
    device: torch.device,
    settings: PredictSettings,
) -> Generator[tuple[int, list[Detection]], None, None]:
    """Detect what each image is prompted with.

    Each text and each image is encoded once, and masks are decoded for the detections that
    are kept.

    Args:
        model: on `device`.
        images: read one at a time.
        texts: all that any image is prompted with.
        device: of the model.
        settings: prompts per pass, confidence threshold and detections per prompt.

    Yields:
        The id of each image and its detections, prompt after prompt, best score first.
    """
    limits = limit_masks(model, settings.confidence_threshold, settings.max_detections)
    with evaluating(model), torch.inference_mode(), mixed_precision(device), limits:
        text_features = encode_prompts(model, list(texts), device)
        for image in images:
            features = {**encode_images(model, image.pixels[None].to(device)), **text_features}
            found: list[Detection] = []
            for start in range(0, len(image.prompts), settings.prompts_per_pass):
                prompts = image.prompts[start : start + settings.prompts_per_pass]
                ids = torch.tensor([texts.index(text) for _, text in prompts], device=device)
                outputs = detect_encoded(model, features, torch.zeros_like(ids), ids)
                for row, (category_id, _) in enumerate(prompts):
                    found += _detections(outputs, row, image, category_id)
            yield image.id, found


def _detections(
    outputs: dict[str, Any], row: int, image: PreparedImage, category_id: int
) -> list[Detection]:
    mask_logits = outputs["kept_masks"][row]
    if mask_logits is None:
        return []
    boxes_cxcywh = outputs["pred_boxes"][row][outputs["kept"][row]].float().cpu()
    return [
        Detection(image.id, category_id, score, box_xywh, mask_to_rle(_mask(logits, image.size)))
        for score, box_xywh, logits in zip(
            outputs["kept_scores"][row].tolist(),
            _boxes_xywh(boxes_cxcywh, image.size),
            mask_logits.float(),
            strict=True,
        )
    ]


def _boxes_xywh(boxes_cxcywh: Tensor, size: Size) -> list[BoxXywh]:
    """Boxes (n, 4) in 0..1 as pixels of the original image."""
    height, width = size
    boxes = boxes_cxcywh * torch.tensor([width, height, width, height])
    boxes[:, :2] -= boxes[:, 2:] / 2
    rounded = [[round(value, BOX_DECIMALS) for value in box] for box in boxes.tolist()]
    return [(x, y, w, h) for x, y, w, h in rounded]


def _mask(logits: Tensor, size: Size) -> npt.NDArray[np.bool_]:
    """A mask in the image's own pixels.

    As in the official processor, logits are enlarged first, then cut at probability 1/2;
    one at a time, for a hundred of a large photograph would fill a GPU.
    """
    enlarged = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)
    mask: npt.NDArray[np.bool_] = (enlarged[0, 0] > 0).cpu().numpy()
    return mask
