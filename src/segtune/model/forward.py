"""Forward passes of SAM 3 over whole batches, or over encoded images and prompts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from segtune.dataset.batch import Batch, normalized
from segtune.model.sam3_package import (
    BatchedDatapoint,
    BatchedFindTarget,
    FindStage,
    Prompt,
    Sam3Image,
)


def grounding_outputs(model: Sam3Image, batch: Batch) -> dict[str, Any]:
    """Run the model on every prompt of a batch: one row of output per prompt.

    Args:
        model: a Sam3Image.
        batch: P prompts over B images, on the model's device.

    Returns:
        The package's output dictionary, with `pred_logits` (P, Q, 1), `pred_boxes`
        (P, Q, 4) cxcywh in 0..1, `pred_masks` (P, Q, h, w) logits and
        `presence_logit_dec` (P, 1); in training mode also with the outputs of each
        decoder layer.
    """
    outputs = model(_datapoint(batch))
    return cast(dict[str, Any], outputs[0])


def encode_images(model: Sam3Image, images: Tensor) -> dict[str, Any]:
    """Image features of (B, 3, S, S) uint8, to be reused for any number of prompts.

    Or of activations (B, h, w, C), in a model that starts with them.
    """
    return cast(dict[str, Any], model.backbone.forward_image(_visual_input(images)))


def encode_prompts(model: Sam3Image, captions: list[str], device: torch.device) -> dict[str, Any]:
    """Text features of C captions, to be reused for any number of images."""
    return cast(dict[str, Any], model.backbone.forward_text(captions, device=device))


def detect_encoded(
    model: Sam3Image, features: Mapping[str, Any], *, image_ids: Tensor, text_ids: Tensor
) -> dict[str, Any]:
    """Outputs for P pairs of encoded image and prompt; see `grounding_outputs`.

    Args:
        model: on the device of the features.
        features: of B images and C captions, from `encode_images` and `encode_prompts`.
        image_ids: (P,) positions of the images.
        text_ids: (P,) positions of the captions.
    """
    stage = _find_stage(image_ids, text_ids)
    prompt = Prompt(box_embeddings=stage.input_boxes, box_mask=stage.input_boxes_mask)
    outputs = model.forward_grounding(
        backbone_out=dict(features), find_input=stage, find_target=None, geometric_prompt=prompt
    )
    return cast(dict[str, Any], outputs)


def loss_targets(model: Sam3Image, batch: Batch) -> dict[str, Any]:
    """A batch's ground truth in the form that the package's losses read."""
    return cast(dict[str, Any], model.back_convert(_find_target(batch)))


def _visual_input(images: Tensor) -> Tensor:
    """Pixels as the model reads them; activations of a frozen prefix stay as they are."""
    return normalized(images) if images.dtype == torch.uint8 else images


def _datapoint(batch: Batch) -> BatchedDatapoint:
    return BatchedDatapoint(
        img_batch=_visual_input(batch.images),
        find_text_batch=list(batch.captions),
        find_inputs=[_find_stage(batch.image_ids, batch.text_ids)],
        find_targets=[_find_target(batch)],
        find_metadatas=[],
    )


def _find_stage(image_ids: Tensor, text_ids: Tensor) -> FindStage:
    prompts, device = len(image_ids), image_ids.device
    return FindStage(
        img_ids=image_ids,
        text_ids=text_ids,
        input_boxes=torch.zeros(0, prompts, 4, device=device),
        input_boxes_mask=torch.zeros(prompts, 0, dtype=torch.bool, device=device),
        input_boxes_label=torch.zeros(0, prompts, dtype=torch.long, device=device),
        input_points=None,
        input_points_mask=None,
    )


def _find_target(batch: Batch) -> BatchedFindTarget:
    return BatchedFindTarget(
        num_boxes=batch.num_boxes,
        boxes=batch.boxes_cxcywh,
        boxes_padded=batch.boxes_padded,
        repeated_boxes=batch.boxes_cxcywh[:0],
        segments=batch.masks,
        semantic_segments=None,
        is_valid_segment=batch.has_mask,
        is_exhaustive=torch.ones_like(batch.num_boxes, dtype=torch.bool),
        object_ids=torch.arange(len(batch.boxes_cxcywh), device=batch.num_boxes.device),
        object_ids_padded=batch.object_ids_padded,
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within, the previous mode again afterward."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
