"""The official SAM 3 fine-tuning loss with masks, normalized over the whole global batch.

Terms, weights and matchers follow the fine-tuning configuration that Meta publishes with
SAM 3. The package's wrapper averages per process; here every process divides by the counts
of the whole step, so that processes and gradient accumulation add up to one big batch.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from segtune.core.errors import TrainingError
from segtune.model.sam3_package import BinaryOneToManyMatcher, Sam3LossWrapper, loss_fns
from segtune.training.mask_loss import ChunkedMasks

REPORTED = ("loss_bbox", "loss_giou", "loss_ce", "presence_loss", "loss_mask", "loss_dice")


class _GloballyNormalized(Sam3LossWrapper):
    def _get_num_boxes(self, targets: Mapping[str, Any]) -> Tensor:
        return cast(Tensor, targets["normalizer"])


def build_loss(matcher: nn.Module, with_masks: bool, masks_per_chunk: int = 8) -> nn.Module:
    """The loss of the official recipe, with or without its mask terms.

    Args:
        matcher: the model's one-to-one matcher, for the auxiliary one-to-many outputs.
        with_masks: whether the training split has masks.
        masks_per_chunk: masks whose loss is computed at once; fewer take less memory.
    """
    terms = [
        loss_fns.Boxes(weight_dict={"loss_bbox": 5.0, "loss_giou": 2.0}),
        loss_fns.IABCEMdetr(
            weak_loss=False,
            weight_dict={"loss_ce": 20.0, "presence_loss": 20.0},
            pos_weight=10.0,
            alpha=0.25,
            gamma=2,
            use_presence=True,
            pos_focal=False,
            pad_n_queries=200,
            pad_scale_pos=1.0,
        ),
    ]
    if with_masks:
        weights = {"loss_mask": 200.0, "loss_dice": 10.0}
        terms.append(
            ChunkedMasks(
                weight_dict=weights,
                focal_alpha=0.25,
                focal_gamma=2.0,
                masks_per_chunk=masks_per_chunk,
            )
        )
    return _GloballyNormalized(
        loss_fns_find=terms,
        normalization="none",
        matcher=matcher,
        o2m_matcher=BinaryOneToManyMatcher(alpha=0.3, threshold=0.4, topk=4),
        o2m_weight=2.0,
        use_o2m_matcher_on_o2m_aux=False,
    )


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
    computed = cast(Any, loss).compute_loss(_float32(outputs), {**targets, "normalizer": boxes})
    terms = {name: computed[name].detach() * fraction for name in REPORTED if name in computed}
    return computed[loss_fns.CORE_LOSS_KEY] * fraction, terms


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
