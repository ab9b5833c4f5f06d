"""Predictions on the images of a split; each image is encoded once for all its prompts."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.core.config import PredictSettings
from segtune.dataset.batch import Size, load_image
from segtune.dataset.coco import Image, Split
from segtune.dataset.data_workers import read_ahead
from segtune.dataset.detections import Detection
from segtune.dataset.masks import BoxXywh, Rle, mask_to_rle
from segtune.model.forward import (
    detect_encoded,
    encode_images,
    encode_prompts,
    evaluating,
)
from segtune.model.mask_decoding import limit_masks
from segtune.model.precision import mixed_precision
from segtune.model.sam3_package import Sam3Image

BOX_DECIMALS = 3  # of a pixel
PROBE_THRESHOLD = 0.5  # confidence threshold of probes
Prompts = Sequence[tuple[int, str]]  # category id and text


@dataclass(frozen=True)
class PreparedImage:
    """An image to predict on."""

    id: int
    pixels: Tensor  # (3, S, S) uint8, or activations (h, w, C)
    size: Size  # (height, width) of the original, in pixels
    prompts: Prompts
    probes: Prompts = ()  # prompts of which it only matters whether anything is detected


@dataclass(frozen=True)
class PromptDetections:
    """The detections of one prompt in an image, highest score first."""

    category_id: int
    scores: list[float]
    boxes_xywh: list[BoxXywh]  # pixels of the original image


ReadImage = Callable[[Image], tuple[Tensor, Size]]
# With mask logits (n, h, w) of the square that the model sees, on its device.
FoundForPrompt = tuple[PromptDetections, Tensor]
FoundInImage = tuple[PreparedImage, Iterator[FoundForPrompt]]


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
        probes: by image id, see `detect`; the detections of the categories do not depend on them.

    Yields:
        The id of each image and its detections.
    """
    read = partial(read_pixels, split, image_size=image_size)
    prepared = prepared_images(split, images, read, probes=probes or {})
    found = detect_in_split(
        model, split, prepared, device=device, settings=settings, probes=probes or {}
    )
    return with_full_masks(found)


def prepared_images(
    split: Split,
    images: Sequence[Image],
    read: ReadImage,
    *,
    probes: Mapping[int, Prompts],
    workers: int = 0,
) -> Iterator[PreparedImage]:
    """Some images of a split, each prompted with every category.

    Args:
        split: images and categories.
        images: of the split.
        read: returns what the model starts with, and the size of the original; can be pickled.
        probes: by image id, see `detect`.
        workers: processes that read ahead; without them, an image is read when its turn comes.

    Raises:
        DatasetError: when an image cannot be read.
    """
    prepare = partial(_prepared, split, read=read, probes=probes)
    return read_ahead(prepare, images, workers=workers)


def read_pixels(split: Split, image: Image, *, image_size: int) -> tuple[Tensor, Size]:
    """An image of a split as `load_image` reads it."""
    return load_image(split.image_path(image), image_size)


def detect_in_split(
    model: Sam3Image,
    split: Split,
    prepared: Iterable[PreparedImage],
    *,
    device: torch.device,
    settings: PredictSettings,
    probes: Mapping[int, Prompts],
    images_per_pass: int = 1,
) -> Generator[FoundInImage, None, None]:
    """`detect` in prepared images of a split, with all texts of the split and of the probes."""
    # Whichever images, so that the padding of the texts is always the same.
    texts = sorted({text for image in split.images for text in split.prompts(image).values()})
    probe_texts = sorted({text for prompts in probes.values() for _, text in prompts})
    return detect(
        model,
        prepared,
        texts,
        device=device,
        settings=settings,
        probe_texts=probe_texts,
        images_per_pass=images_per_pass,
    )


def _prepared(
    split: Split, image: Image, *, read: ReadImage, probes: Mapping[int, Prompts]
) -> PreparedImage:
    pixels, size = read(image)
    return PreparedImage(
        image.id,
        pixels,
        size=size,
        prompts=tuple(split.prompts(image).items()),
        probes=probes.get(image.id, ()),
    )


def predict(
    model: Sam3Image,
    images: Iterable[PreparedImage],
    texts: Sequence[str],
    *,
    device: torch.device,
    settings: PredictSettings,
) -> Generator[tuple[int, list[Detection]], None, None]:
    """The detections of `detect`, with masks of the original images' sizes."""
    return with_full_masks(detect(model, images, texts, device=device, settings=settings))


def detect(
    model: Sam3Image,
    images: Iterable[PreparedImage],
    texts: Sequence[str],
    *,
    device: torch.device,
    settings: PredictSettings,
    probe_texts: Sequence[str] = (),
    images_per_pass: int = 1,
) -> Generator[FoundInImage, None, None]:
    """Detect what each image is prompted with.

    Each text and each image is encoded once, and masks are only decoded for the detections
    that are returned.

    Args:
        model: on `device`.
        images: of one size of input; read when it is their turn.
        texts: every prompt of every image.
        device: of the model.
        settings: prompts per pass, confidence threshold and detections per prompt.
        probe_texts: every probe of every image. A probe has at most one detection, the best with
            a score of at least `PROBE_THRESHOLD`, so that it costs little.
        images_per_pass: images that are encoded together, and prompted together as far as
            `settings.prompts_per_pass` allows. It changes results only in rounding.

    Yields:
        Each image and its detections, prompt by prompt, then those of its probes. They are made
        while they are taken, all of which must be before the next image.
    """
    probing = settings.model_copy(
        update={"confidence_threshold": PROBE_THRESHOLD, "max_detections": 1}
    )
    with evaluating(model), torch.inference_mode(), mixed_precision(device):
        classes = _Texts(texts, encode_prompts(model, list(texts), device), settings)
        # Encoded by themselves: the detections of the others do not depend on them.
        encoded = encode_prompts(model, list(probe_texts), device) if probe_texts else {}
        probes = _Texts(probe_texts, encoded, probing)
        remaining = iter(images)
        while group := list(islice(remaining, images_per_pass)):
            yield from _in_group(model, group, classes=classes, probes=probes, device=device)


@dataclass(frozen=True)
class _Texts:
    """Encoded texts, and how to prompt with them."""

    texts: Sequence[str]
    features: Mapping[str, Any]
    settings: PredictSettings


_Pair = tuple[int, int, str]  # an image's place in its group, category id and text


def _in_group(
    model: Sam3Image,
    group: Sequence[PreparedImage],
    *,
    classes: _Texts,
    probes: _Texts,
    device: torch.device,
) -> Iterator[FoundInImage]:
    """What `detect` yields, of images that are encoded together."""
    pixels = torch.stack([image.pixels for image in group])
    features = encode_images(model, pixels.to(device))
    answers = _answers(
        model, group, features, pairs=_pairs([i.prompts for i in group]), texts=classes
    )
    alarms = _answers(model, group, features, pairs=_pairs([i.probes for i in group]), texts=probes)
    for image in group:
        own = chain(islice(answers, len(image.prompts)), islice(alarms, len(image.probes)))
        yield image, (found for found in own if found is not None)


def _pairs(prompts: Sequence[Prompts]) -> list[_Pair]:
    return [(place, *prompt) for place, own in enumerate(prompts) for prompt in own]


def _answers(
    model: Sam3Image,
    images: Sequence[PreparedImage],
    features: Mapping[str, Any],
    *,
    pairs: Sequence[_Pair],
    texts: _Texts,
) -> Iterator[FoundForPrompt | None]:
    """The detections of each prompt in order; None for a prompt without any.

    Args:
        model: on the device of the features.
        images: that are encoded as `features`.
        features: of the images.
        pairs: prompts of these images.
        texts: among which are those of the prompts.
    """
    settings = texts.settings
    for start in range(0, len(pairs), settings.prompts_per_pass):
        chunk = pairs[start : start + settings.prompts_per_pass]
        limits = limit_masks(
            model,
            min_score=settings.confidence_threshold,
            max_detections=settings.max_detections,
        )
        with limits:
            outputs = _outputs(model, features, chunk, texts)
        for row, (place, category_id, _) in enumerate(chunk):
            boxes, selected = outputs["pred_boxes"][row], outputs["selected"][row]
            if selected.mask_logits is None:
                yield None
                continue
            found = PromptDetections(
                category_id=category_id,
                scores=selected.scores.tolist(),
                boxes_xywh=_boxes_xywh(boxes[selected.queries].float().cpu(), images[place].size),
            )
            yield found, selected.mask_logits.float()


def _outputs(
    model: Sam3Image,
    image_features: Mapping[str, Any],
    chunk: Sequence[_Pair],
    texts: _Texts,
) -> dict[str, Any]:
    features = {**image_features, **texts.features}
    device = texts.features["language_features"].device
    places = torch.tensor([place for place, _, _ in chunk], device=device)
    text_ids = torch.tensor([texts.texts.index(text) for _, _, text in chunk], device=device)
    return detect_encoded(model, features, image_ids=places, text_ids=text_ids)


def with_full_masks(
    predictions: Generator[FoundInImage, None, None],
) -> Generator[tuple[int, list[Detection]], None, None]:
    """Each image's id and its detections, with masks of the original image's size."""
    with closing(predictions):
        for image, in_image in predictions:
            yield image.id, full_detections(image, in_image)


def full_detections(image: PreparedImage, in_image: Iterable[FoundForPrompt]) -> list[Detection]:
    """The detections of all prompts, with masks of the original image's size."""
    found: list[Detection] = []
    for prompt, mask_logits in in_image:
        masks = (mask_to_rle(_mask(logits, image.size)) for logits in mask_logits)
        found += detections_of(prompt, image.id, masks)
    return found


def detections_of(
    prompt: PromptDetections, image_id: int, masks: Iterable[Rle]
) -> Iterator[Detection]:
    """The detections of one prompt, one by one with their masks."""
    for score, box, rle in zip(prompt.scores, prompt.boxes_xywh, masks, strict=True):
        yield Detection(
            image_id=image_id,
            category_id=prompt.category_id,
            score=score,
            bbox_xywh=box,
            rle=rle,
        )


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
