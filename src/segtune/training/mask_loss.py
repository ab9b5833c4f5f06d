"""The mask loss of the official recipe, in memory that does not grow with the objects.

Focal and dice loss of one mask keep about eleven float32 planes of the input's size for the
backward pass: 45 MB at 1008 x 1008, and an object has up to five matched masks. Both are sums
over masks, so they are computed a few masks at a time; only logits and the ground truth are kept in
between, and gradients are computed from these by their formulas, in a few planes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from segtune.model.sam3_package import loss_fns


class ChunkedMasks(loss_fns.Masks):
    """The package's mask loss: the same values and gradients, up to the order of additions.

    Args:
        masks_per_chunk: masks whose loss is computed at once.
        options: of the package's loss.
    """

    def __init__(self, *, masks_per_chunk: int, **options: Any) -> None:
        super().__init__(**options)
        self.masks_per_chunk = masks_per_chunk

    def get_loss(
        self,
        outputs: Mapping[str, Any],
        targets: Mapping[str, Any],
        indices: Sequence[Any],
        num_boxes: Tensor,
    ) -> dict[str, Tensor]:
        """Focal and dice loss of the matched masks.

        Args:
            outputs: with `pred_masks`, the `MaskEmbeddings` of R prompts, and `mask_rows` (P,),
                the rows of the prompts among them.
            targets: with `masks` (N, S, S) bool and `is_valid_mask` (N,) bool.
            indices: of the matched prompts, queries and objects, (M,) each; the objects may be
                None for all N in their order.
            num_boxes: the sum over masks is divided by it.
        """
        rows, queries, objects = matched_masks(indices, targets, outputs["mask_rows"])
        logits = outputs["pred_masks"].logits(rows, queries)  # (M, h, w)
        size = self.masks_per_chunk
        chunks = zip(logits.split(size), objects.split(size), strict=True)
        sums = [
            cast(
                Tensor,
                _Sums.apply(chunk, targets["masks"], ids, self.focal_alpha, self.focal_gamma),
            )
            for chunk, ids in chunks
        ]
        focal, dice = torch.stack(sums).sum(0)
        return {"loss_mask": focal / num_boxes, "loss_dice": dice / num_boxes}


class _Sums(Function):
    """(2,) focal loss, averaged over pixels, and dice loss; both summed over n masks.

    Planes are (n, S * S) and take most of the memory, so they are changed in place.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, masks: Tensor, objects: Tensor, alpha: float, gamma: float
    ) -> Tensor:
        ctx.save_for_backward(logits, masks, objects)
        ctx.alpha, ctx.gamma = alpha, gamma
        upsampled = _upsampled(logits, masks)
        truth = masks[objects].flatten(1).to(upsampled.dtype)
        focal = _entropy(upsampled, truth)
        found = upsampled.sigmoid_()
        focal.mul_((found - truth).abs_().pow_(gamma))
        focal.mul_(truth * (2 * alpha - 1) + (1 - alpha))
        overlap, total = _areas(found, truth)
        dice = 1 - (2 * overlap + 1) / (total + 1)
        return torch.stack([focal.sum() / found.shape[1], dice.sum()])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, masks, objects = ctx.saved_tensors
        upsampled = _upsampled(logits, masks)
        truth = masks[objects].flatten(1).to(upsampled.dtype)
        entropy = _entropy(upsampled, truth)
        found = upsampled.sigmoid_()
        slope = _focal_slope(found, truth, entropy, alpha=ctx.alpha, gamma=ctx.gamma)
        del entropy
        slope.mul_(gradient[0] / found.shape[1])
        slope.addcmul_(_dice_slope(found, truth), gradient[1])
        size, small = list(masks.shape[-2:]), list(logits[:, None].shape)
        back = torch.ops.aten.upsample_bilinear2d_backward
        of_logits = back(slope.unflatten(1, size)[:, None], size, small, align_corners=False)
        return of_logits[:, 0].to(logits.dtype), None, None, None, None


def _entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy of each pixel."""
    return F.softplus(logits).addcmul_(logits, truth, value=-1)


def _areas(found: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) of the overlap, and of both masks together."""
    return torch.linalg.vecdot(found, truth), found.sum(1) + truth.sum(1)


def _focal_slope(
    found: Tensor, truth: Tensor, entropy: Tensor, *, alpha: float, gamma: float
) -> Tensor:
    """The derivative of each pixel's focal loss by its logit.

    The loss is weight * wrong ** gamma * entropy, where `wrong` is the distance of the probability
    from the truth, and weight is alpha in an object and 1 - alpha elsewhere. With right = 1 -
    wrong, its derivative is weight * wrong ** gamma * (gamma * right * entropy + wrong), away from
    the truth.
    """
    wrong = (found - truth).abs_()
    slope = (1 - wrong).mul_(entropy).mul_(gamma).add_(wrong)
    return slope.mul_(wrong.pow_(gamma)).mul_((1 - alpha) - truth)


def _dice_slope(found: Tensor, truth: Tensor) -> Tensor:
    """The derivative of each mask's dice loss by its logits.

    The loss is 1 - (2 * overlap + 1) / (total + 1).
    """
    overlap, total = (area[:, None] for area in _areas(found, truth))
    slope = (truth * (-2 / (total + 1))).add_((2 * overlap + 1) / (total + 1) ** 2)
    return slope.mul_(found).mul_(1 - found)


def _upsampled(logits: Tensor, masks: Tensor) -> Tensor:
    """(n, S * S) logits at the size of the ground truth; in float32, as in the package."""
    single = logits if logits.dtype == torch.float64 else logits.float()
    upsampled = F.interpolate(
        single[:, None], masks.shape[-2:], mode="bilinear", align_corners=False
    )
    return upsampled.flatten(1)


def matched_masks(
    indices: Sequence[Any], targets: Mapping[str, Any], mask_rows: Tensor
) -> tuple[list[int], Tensor, Tensor]:
    """The matches whose object has a mask, ordered by row: M rows, queries (M,) and objects (M,).

    Arguments as of `ChunkedMasks.get_loss`.
    """
    prompts, queries, objects = indices
    if objects is None:
        objects = torch.arange(len(prompts), device=prompts.device)
    keep = targets["is_valid_mask"][objects].nonzero().flatten()
    rows, order = mask_rows[prompts[keep]].sort(stable=True)
    return rows.tolist(), queries[keep][order], objects[keep][order]
