"""The mask loss of the official recipe, in memory that does not grow with the objects.

Focal and dice loss of one mask keep about eleven float32 planes of the input's size for the
backward pass: 45 MB at 1008 x 1008, and an object has up to five matched masks. Both are sums
over masks, so they are computed a few masks at a time; only logits and the ground truth are kept in
between, and gradients are computed from these by their formulas, in a few planes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class ChunkedMasks:
    """The package's mask loss: the same values and gradients, up to the order of additions."""

    masks_per_chunk: int  # masks whose loss is computed at once
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0

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

    Planes are (n, S * S) and take most of the memory and time, so they are few, and are changed in
    place. With `away` 1 outside of an object and -1 inside, logit * away leads away from the truth:
    its sigmoid is `wrong`, how far the probability is from the truth, and its softplus is the
    cross-entropy.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, masks: Tensor, objects: Tensor, alpha: float, gamma: float
    ) -> Tensor:
        away, focal, wrong = _planes(logits, masks, objects)
        focal.mul_(wrong**gamma)
        # Weighted with alpha in an object, and 1 - alpha outside.
        weighted = focal.sum() / 2 + (0.5 - alpha) * torch.linalg.vecdot(focal, away).sum()
        size = (away.shape[1] - away.sum(1)) / 2
        all_wrong = wrong.sum(1)
        overlap = size - (all_wrong - torch.linalg.vecdot(wrong, away)) / 2
        total = 2 * overlap + all_wrong  # of both masks
        ctx.save_for_backward(logits, masks, objects, overlap, total)
        ctx.alpha, ctx.gamma = alpha, gamma
        dice = 1 - (2 * overlap + 1) / (total + 1)
        return torch.stack([weighted / away.shape[1], dice.sum()])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, masks, objects, overlap, total = ctx.saved_tensors
        away, entropy, wrong = _planes(logits, masks, objects)
        right, of_focal = 1 - wrong, gradient[0] / away.shape[1]
        # weight * wrong ** gamma * (gamma * right * entropy + wrong), away from the truth
        slope = entropy.mul_(right).mul_(ctx.gamma).add_(wrong).mul_(wrong**ctx.gamma)
        slope.mul_((away * (of_focal / 2)).add_((0.5 - ctx.alpha) * of_focal))
        # (2 * overlap + 1) / (total + 1) ** 2 by the probability, less 2 / (total + 1) in an object
        by_area = 1 / (total[:, None] + 1)
        dice = torch.addcmul((2 * overlap[:, None] + 1) * by_area**2 - by_area, away, by_area)
        slope.addcmul_(dice.mul_(right).mul_(wrong), gradient[1])
        size, small = list(masks.shape[-2:]), list(logits[:, None].shape)
        back = torch.ops.aten.upsample_bilinear2d_backward
        of_logits = back(slope.unflatten(1, size)[:, None], size, small, align_corners=False)
        return of_logits[:, 0].to(logits.dtype), None, None, None, None


def _planes(logits: Tensor, masks: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`away`, the cross-entropy and `wrong`, (n, S * S) each."""
    upsampled = _upsampled(logits, masks)
    away = masks[objects].flatten(1).to(upsampled.dtype).mul_(-2).add_(1)
    to_wrong = upsampled.mul_(away)
    entropy = F.softplus(to_wrong)
    return away, entropy, to_wrong.sigmoid_()


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
