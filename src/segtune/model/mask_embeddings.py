"""Masks in training, of which only those are decoded that a loss reads.

The logits of a mask are the products of its query's embedding with those of all pixels. Of a
prompt's 400 queries, a few are matched with objects; the package decodes the masks of all.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from segtune.model.sam3_package import UniversalSegmentationHead


@dataclass(frozen=True)
class MaskEmbeddings:
    """The masks of R prompts, not decoded."""

    queries: Tensor  # (R, Q, C)
    pixels: Sequence[Tensor]  # R of (C, h, w)

    def logits(self, rows: Sequence[int], queries: Tensor) -> Tensor:
        """Decode M masks.

        Args:
            rows: M numbers below R, in ascending order.
            queries: (M,) numbers below Q.

        Returns:
            (M, h, w) logits. They have a gradient even if M is 0.
        """
        count = Counter(rows)
        wanted = queries.split([count[row] for row in range(len(self.pixels))])
        per_row = zip(self.queries.unbind(), self.pixels, wanted, strict=True)
        found = [
            embedded[numbers] @ pixels.flatten(1)
            for row, (embedded, pixels, numbers) in enumerate(per_row)
            if count[row] or not (rows or row)
        ]
        return torch.cat(found).unflatten(1, self.pixels[0].shape[1:])


class SegmentationHead(UniversalSegmentationHead):
    """The stock head, which in training leaves it at the embeddings of queries and pixels."""

    def forward(self, *inputs: Any, **named: Any) -> dict[str, Tensor | None]:
        """As in the package; in training, `queries` (R, Q, C) and `pixels` (R, C, h, w)."""
        if self.training:
            return self._embedded(*inputs, **named)
        return cast(dict[str, Tensor | None], super().forward(*inputs, **named))

    def _embedded(
        self,
        backbone_feats: list[Tensor],
        obj_queries: Tensor,
        image_ids: Tensor,
        encoder_hidden_states: Tensor,
        prompt: Tensor,
        prompt_mask: Tensor,
    ) -> dict[str, Tensor | None]:
        attended = self.cross_attend_prompt(
            query=self.cross_attn_norm(encoder_hidden_states),
            key=prompt,
            value=prompt,
            key_padding_mask=prompt_mask,
        )[0]
        pixels = self._embed_pixels(
            backbone_feats=backbone_feats,
            image_ids=image_ids,
            encoder_hidden_states=attended + encoder_hidden_states,
        )
        return {
            "queries": self.mask_predictor.mask_embed(obj_queries[-1]),
            "pixels": self.instance_seg_head(pixels),
        }
