"""Whether two models are one: their outputs for the same images and prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segtune.dataset.batch import load_image
from segtune.dataset.coco import Image, Split
from segtune.model.forward import detect_encoded, encode_images, encode_prompts, evaluating
from segtune.model.sam3_package import Sam3Image

COMPARED = ("pred_logits", "pred_boxes", "pred_masks", "presence_logit_dec")
PROMPTS = 2  # for an image, at most
Outputs = dict[str, Tensor]
Differences = dict[str, dict[str, float]]


@dataclass(frozen=True)
class ParityInput:
    """An image and what it is prompted with."""

    name: str
    pixels: Tensor  # (3, S, S) uint8
    prompts: tuple[str, ...]


def random_input(image_size: int) -> ParityInput:
    """Two prompts for one random image, the same every time."""
    noise = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, image_size, image_size), generator=noise).byte()
    return ParityInput("random pixels", pixels, ("a thing", "something else"))


def inputs_of(split: Split, image_size: int, count: int) -> list[ParityInput]:
    """The first images of a split that have objects, each prompted with classes of these.

    Raises:
        DatasetError: when an image cannot be read.
    """
    images = [image for image in split.images if split.annotations[image.id]]
    return [
        ParityInput(
            image.file_name,
            load_image(split.image_path(image), image_size)[0],
            _shown_prompts(split, image),
        )
        for image in images[:count]
    ]


def outputs_on(
    model: Sam3Image, inputs: Sequence[ParityInput], after_part: Callable[[], object] = lambda: None
) -> list[Outputs]:
    """A model's outputs for each input.

    Args:
        model: on the CPU.
        inputs: of any number of prompts.
        after_part: called when a part of the model has done its work, and its weights are not
            needed for a while.
    """
    prompts = [prompt for one in inputs for prompt in one.prompts]
    outputs, first = [], 0
    with evaluating(model), torch.no_grad():
        text = encode_prompts(model, prompts, torch.device("cpu"))
        after_part()
        for one in inputs:
            features = {**encode_images(model, one.pixels[None]), **text}
            after_part()
            ids = torch.arange(first, first + len(one.prompts))
            outputs.append(_detected(model, features, ids))
            after_part()
            first += len(one.prompts)
    return outputs


def outputs_on_random_input(model: Sam3Image, image_size: int) -> Outputs:
    """A model's outputs for `random_input`."""
    return outputs_on(model, [random_input(image_size)])[0]


def compare(one: Sequence[Outputs], other: Sequence[Outputs]) -> Differences:
    """Per output the largest difference, absolute and relative to the input's largest value."""
    compared: Differences = {name: {"absolute": 0.0, "relative": 0.0} for name in COMPARED}
    for left, right in zip(one, other, strict=True):
        for name, worst in compared.items():
            difference = (left[name] - right[name]).abs().max()
            relative = difference / left[name].abs().max().clamp(min=1e-12)
            # NaN wins, as it would not in Python's `max`.
            worst["absolute"] = difference.maximum(torch.tensor(worst["absolute"])).item()
            worst["relative"] = relative.maximum(torch.tensor(worst["relative"])).item()
    return compared


def largest(differences: Differences) -> float:
    """The largest of the relative differences."""
    return max(item["relative"] for item in differences.values())


def _shown_prompts(split: Split, image: Image) -> tuple[str, ...]:
    shown = {a.category_id for a in split.annotations[image.id]}
    prompts = split.prompts(image)
    return tuple(prompts[number] for number in sorted(shown))[:PROMPTS]


def _detected(model: Sam3Image, features: dict[str, Any], text_ids: Tensor) -> Outputs:
    outputs = detect_encoded(
        model,
        features,
        image_ids=torch.zeros(len(text_ids), dtype=torch.long),
        text_ids=text_ids,
    )
    return {name: outputs[name].clone() for name in COMPARED}
