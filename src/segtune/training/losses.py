"""The official SAM 3 fine-tuning loss with masks, normalized over the whole global batch.

Terms, weights and matchers follow the fine-tuning configuration that Meta publishes with
SAM 3. The package's wrapper averages per process; here every process divides by the counts
of the whole step, so that processes and gradient accumulation add up to one big batch.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segtune.core.errors import TrainingError
from segtune.model.sam3_package import BinaryOneToManyMatcher
from segtune.training.detection_loss import KINDS, Predictions, detection_losses, match
from segtune.training.mask_loss import ChunkedMasks

WEIGHTS = {
    "loss_bbox": 5.0,
    "loss_giou": 2.0,
    "loss_ce": 20.0,
    "presence_loss": 20.0,
    "loss_mask": 200.0,
    "loss_dice": 10.0,
}
REPORTED = tuple(WEIGHTS)
O2M_WEIGHT = 2.0


class DetectionLoss(nn.Module):
    """The loss of the official recipe.

    Args:
        matcher: the model's one-to-one matcher.
        masks: the mask terms; None without them.
    """

    def __init__(self, matcher: nn.Module, masks: ChunkedMasks | None) -> None:
        super().__init__()
        self.one_to_one, self.masks = matcher, masks
        self.one_to_many = BinaryOneToManyMatcher(alpha=0.3, threshold=0.4, topk=4)

    def forward(
        self, outputs: Mapping[str, Any], targets: Mapping[str, Any], num_boxes: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the unweighted terms of the last layer's one-to-one matches.

        Args:
            outputs: of the model in training, in single precision.
            targets: from `loss_targets`.
            num_boxes: the box and mask terms are divided by it.
        """
        predictions = Predictions.of(outputs)
        matched = match(predictions, targets, self.one_to_one, self.one_to_many)
        losses = detection_losses(predictions, targets, matched, num_boxes)
        layers = predictions.layers
        terms = {name: each[layers - 1] for name, each in losses.items()}
        parts = [
            WEIGHTS[name] * (each[:layers].sum() + O2M_WEIGHT * each[layers:].sum())
            for name, each in losses.items()
        ]
        if self.masks is not None:
            one, many = (
                self.masks.get_loss(
                    {name: outputs[name + kind] for name in ("pred_masks", "mask_rows")},
                    targets,
                    (found.rows, found.queries, found.objects),
                    num_boxes,
                )
                for kind, found in zip(KINDS, matched.of_last_layer(predictions), strict=True)
            )
            parts += [WEIGHTS[n] * (one[n] + O2M_WEIGHT * many[n]) for n in one]
            terms |= one
        return torch.stack(parts).sum(), terms


def build_loss(matcher: nn.Module, with_masks: bool, masks_per_chunk: int = 8) -> nn.Module:
    """The loss of the official recipe, with or without its mask terms.

    Args:
        matcher: the model's one-to-one matcher.
        with_masks: whether the training split has masks.
        masks_per_chunk: masks whose loss is computed at once; fewer take less memory.
    """
    return DetectionLoss(matcher, ChunkedMasks(masks_per_chunk) if with_masks else None)


def prompted_loss(
    loss: nn.Module,
    outputs: Mapping[str, Any],
    targets: Mapping[str, Any],
    *,
    step_boxes: float,
    step_prompts: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """This batch's part of the loss of the whole optimizer step.

    The parts of all micro-batches and processes sum to the loss of one big batch: box and
    mask terms are sums over objects divided by `step_boxes`, classification and presence
    terms are means over prompts weighted by the batch's fraction of `step_prompts`.

    Args:
        loss: from `build_loss`.
        outputs: from the model in training mode, P prompts.
        targets: from `loss_targets`.
        step_boxes: objects in the whole step, over all processes.
        step_prompts: prompts in the whole step, over all processes.

    Returns:
        The part, to be summed and differentiated, and the detached parts of the terms of
        the last decoder layer, unweighted.
    """
    fraction = len(targets["num_boxes"]) / step_prompts
    boxes = torch.tensor(max(step_boxes, 1.0) * fraction)
    total, terms = loss(_float32(outputs), targets, boxes)
    return total * fraction, {name: term.detach() * fraction for name, term in terms.items()}


def not_finite(loss: float, gradient_norm: float, names: list[str]) -> TrainingError:
    """The error for a step whose loss or gradient is NaN or infinite.

    Args:
        loss: of the step.
        gradient_norm: of the step, before clipping.
        names: the images of the step.
    """
    is_loss = not math.isfinite(loss)
    found = f"loss became {loss}" if is_loss else f"gradient norm became {gradient_norm}"
    return TrainingError(
        f"the {found}",
        record=", ".join(names),
        fix="Lower train.learning_rate, or check the labels of these images",
    )


def _float32(value: Any) -> Any:
    # Matching and losses run in single precision, whatever the precision of the forward pass.
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, Mapping):
        keys = [key for key in value if key not in ("prev_encoder_out", "encoder_hidden_states")]
        return {key: _float32(value[key]) for key in keys}
    if isinstance(value, list):
        return [_float32(item) for item in value]
    return value
