"""Predictions on the images of a split; each image is encoded once for all its prompts."""

from collections.abc import Generator, Iterable, Mapping, Sequence
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
)
from segtune.model.mask_decoding import Selected, limit_masks
from segtune.model.precision import mixed_precision
from segtune.model.sam3_package import Sam3Image

BOX_DECIMALS = 3  # of a pixel
PROBE_THRESHOLD = 0.5  # confidence threshold of probes
Prompts = Sequence[tuple[int, str]]  # category id and text


@dataclass(frozen=True)
class PreparedImage:
    """An image to predict on."""

    id: int
    pixels: Tensor  # (3, S, S) uint8
    size: Size  # (height, width) of the original, in pixels
    prompts: Prompts
    probes: Prompts = ()  # prompts of which it only matters whether anything is detected


def predict_images(
    model: Sam3Image,
    split: Split,
    images: Sequence[Image],
    *,
    image_size: int,
    device: torch.device,
    settings: PredictSettings,
    probes: Mapping[int, Prompts] | None = None,
) -> Generator[tuple[int, list[Detection]], None, None]:
    """Prompt every category of a split in some of its images.

    Args:
        model: on `device`.
        split: images and categories.
        images: of the split; each is only read when its turn comes.
        image_size: side of the model's input, in pixels.
        device: of the model.
        settings: prompts per pass, confidence threshold and detections per prompt.
        probes: by image id, see `predict`; the detections of the categories do not depend on them.

    Yields:
        The id of each image and its detections.
    """
    probes = probes or {}
    # All texts of the split, whichever images, so that their padding is always the same.
    texts = sorted({text for image in split.images for text in split.prompts(image).values()})
    probe_texts = sorted({text for prompts in probes.values() for _, text in prompts})
    prepared = (
        _prepared(split, image, image_size, probes=probes.get(image.id, ())) for image in images
    )
    return predict(
        model, prepared, texts, device=device, settings=settings, probe_texts=probe_texts
    )


def _prepared(split: Split, image: Image, image_size: int, *, probes: Prompts) -> PreparedImage:
    pixels, size = load_image(split.image_path(image), image_size)
    prompts = tuple(split.prompts(image).items())
    return PreparedImage(image.id, pixels, size=size, prompts=prompts, probes=probes)


def predict(
    model: Sam3Image,
    images: Iterable[PreparedImage],
    texts: Sequence[str],
    *,
    device: torch.device,
    settings: PredictSettings,
    probe_texts: Sequence[str] = (),
) -> Generator[tuple[int, list[Detection]], None, None]:
    """Detect what each image is prompted with.

    Each text and each image is encoded once, and masks are only decoded for the detections
    that are returned.

    Args:
        model: on `device`.
        images: read one at a time.
        texts: every prompt of every image.
        device: of the model.
        settings: prompts per pass, confidence threshold and detections per prompt.
        probe_texts: every probe of every image. A probe has at most one detection, the best with
            a score of at least `PROBE_THRESHOLD`, so that it costs little.

    Yields:
        The id of each image and its detections, prompt by prompt, highest score first; then
        those of its probes.
    """
    probing = settings.model_copy(
        update={"confidence_threshold": PROBE_THRESHOLD, "max_detections": 1}
    )
    with evaluating(model), torch.inference_mode(), mixed_precision(device):
        classes = _Texts(texts, encode_prompts(model, list(texts), device), settings)
        # Encoded by themselves: the detections of the others do not depend on them.
        encoded = encode_prompts(model, list(probe_texts), device) if probe_texts else {}
        probes = _Texts(probe_texts, encoded, probing)
        for image in images:
            features = encode_images(model, image.pixels[None].to(device))
            yield (
                image.id,
                [
                    *_detected(model, image, features, prompts=image.prompts, texts=classes),
                    *_detected(model, image, features, prompts=image.probes, texts=probes),
                ],
            )


@dataclass(frozen=True)
class _Texts:
    """Encoded texts, and how to prompt with them."""

    texts: Sequence[str]
    features: Mapping[str, Any]
    settings: PredictSettings


def _detected(
    model: Sam3Image,
    image: PreparedImage,
    features: Mapping[str, Any],
    *,
    prompts: Prompts,
    texts: _Texts,
) -> list[Detection]:
    """The detections of prompts in an image that is encoded as `features`."""
    settings = texts.settings
    limits = limit_masks(
        model,
        min_score=settings.confidence_threshold,
        max_detections=settings.max_detections,
    )
    found: list[Detection] = []
    with limits:
        for start in range(0, len(prompts), settings.prompts_per_pass):
            chunk = prompts[start : start + settings.prompts_per_pass]
            outputs = _outputs(model, features, [text for _, text in chunk], texts)
            for row, (category_id, _) in enumerate(chunk):
                boxes, selected = outputs["pred_boxes"][row], outputs["selected"][row]
                found += _detections(selected, boxes, image, category_id=category_id)
    return found


def _outputs(
    model: Sam3Image, image_features: Mapping[str, Any], chunk: Sequence[str], texts: _Texts
) -> dict[str, Any]:
    features = {**image_features, **texts.features}
    device = texts.features["language_features"].device
    text_ids = torch.tensor([texts.texts.index(text) for text in chunk], device=device)
    first = torch.zeros_like(text_ids)
    return detect_encoded(model, features, image_ids=first, text_ids=text_ids)


def _detections(
    selected: Selected, boxes_cxcywh: Tensor, image: PreparedImage, *, category_id: int
) -> list[Detection]:
    """The detections of one prompt, from its boxes (Q, 4) in 0..1."""
    if selected.mask_logits is None:
        return []
    boxes = _boxes_xywh(boxes_cxcywh[selected.queries].float().cpu(), image.size)
    return [
        Detection(
            image_id=image.id,
            category_id=category_id,
            score=score,
            bbox_xywh=box_xywh,
            rle=mask_to_rle(_mask(logits, image.size)),
        )
        for score, box_xywh, logits in zip(
            selected.scores.tolist(), boxes, selected.mask_logits.float(), strict=True
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
    """A mask at the image's own resolution.

    As in the official processor, logits are upsampled first, then thresholded at a probability
    of 1/2; one at a time, because a hundred masks of a large image would fill a GPU.
    """
    upsampled = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)
    mask: npt.NDArray[np.bool_] = (upsampled[0, 0] > 0).cpu().numpy()
    return mask
