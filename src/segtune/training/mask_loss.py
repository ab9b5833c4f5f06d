"""The mask loss of the official recipe, in memory that does not grow with the objects.

Focal and dice loss of one mask keep about eleven float32 planes of the input's size for the
backward pass: 45 MB at 1008 x 1008, and an object has up to five matched masks. Both are sums
over masks, so they are computed a few masks at a time, and only logits and the ground truth are
kept in between.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torchvision.ops import sigmoid_focal_loss

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
            outputs: with `pred_masks` (R, Q, h, w) logits, and `mask_rows` (P,), the rows of the
                prompts among them.
            targets: with `masks` (N, S, S) bool and `is_valid_mask` (N,) bool.
            indices: of the matched prompts, queries and objects, (M,) each; the objects may be
                None for all N in their order.
            num_boxes: the sum over masks is divided by it.
        """
        prompts, queries, objects = with_masks(indices, targets)
        logits = outputs["pred_masks"][outputs["mask_rows"][prompts], queries]  # (M, h, w)
        size = self.masks_per_chunk
        chunks = zip(logits.split(size), objects.split(size), strict=True)
        sums = [
            checkpoint(self._sums, chunk, targets["masks"], ids, use_reentrant=False)
            for chunk, ids in chunks
        ]
        focal, dice = torch.stack(sums).sum(0)
        return {"loss_mask": focal / num_boxes, "loss_dice": dice / num_boxes}

    def _sums(self, logits: Tensor, masks: Tensor, objects: Tensor) -> Tensor:
        """(2,) focal loss, averaged over pixels, and dice loss; both summed over masks."""
        truth = masks[objects].float().flatten(1)
        # As in the package: upsampling in float32, to the size of the ground truth.
        upsampled = F.interpolate(
            logits.float()[:, None], masks.shape[-2:], mode="bilinear", align_corners=False
        ).flatten(1)  # (n, S * S)
        focal = sigmoid_focal_loss(
            upsampled, truth, alpha=self.focal_alpha, gamma=self.focal_gamma, reduction="sum"
        )
        # Not the package's function, which continues on the CPU when a GPU's memory is full.
        found = upsampled.sigmoid()
        overlap, total = (found * truth).sum(1), found.sum(1) + truth.sum(1)
        dice = 1 - (2 * overlap + 1) / (total + 1)
        return torch.stack([focal / upsampled.shape[1], dice.sum()])


def with_masks(indices: Sequence[Any], targets: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The matches whose object has a mask: prompts, queries and objects, (M,) each."""
    prompts, queries, objects = indices
    if objects is None:
        objects = torch.arange(len(prompts), device=prompts.device)
    keep = targets["is_valid_mask"][objects]
    return prompts[keep], queries[keep], objects[keep]
