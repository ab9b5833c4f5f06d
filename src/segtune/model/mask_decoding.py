"""SAM 3 that only decodes the masks that are read.

At prediction these are the masks of the best detections; in training those that are matched with
objects, which the loss decodes of what is prepared here for prompts that show something.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from segtune.model.components import ImageRows
from segtune.model.mask_embeddings import MaskEmbeddings
from segtune.model.sam3_package import Sam3Image


@dataclass(frozen=True)
class Selected:
    """The best detections of one prompt, highest score first."""

    queries: Tensor  # (n,) their positions among the queries
    scores: Tensor  # (n,)
    mask_logits: Tensor | None  # (n, h, w); None without detections


@dataclass(frozen=True)
class _Limits:
    min_score: float
    max_detections: int | None  # per prompt; None: no limit


class SelectiveMaskSam3(Sam3Image):
    """The stock model, except in training and within `limit_masks`.

    In training, the outputs `pred_masks` and `pred_masks_o2m` are `MaskEmbeddings` with one row
    per prompt with objects, and `mask_rows` (P,) holds the row of each prompt; -1 for a prompt
    without one.
    """

    limits: _Limits | None = None
    _objects: Tensor | None = None  # (P,) per prompt, during a forward pass in training

    def forward_grounding(
        self, *, backbone_out: dict[str, Any], find_input: Any, find_target: Any, **inputs: Any
    ) -> dict[str, Any]:
        """As in the package."""
        rows = ImageRows.of(find_input.img_ids, len(backbone_out["vision_features"]))
        self.geometry_encoder.rows = self.transformer.encoder.layers[0].rows = rows
        self._objects = find_target.num_boxes if self.training else None
        try:
            outputs: dict[str, Any] = super().forward_grounding(
                backbone_out=backbone_out, find_input=find_input, find_target=find_target, **inputs
            )
        finally:
            self._objects = None
        return outputs

    def _run_segmentation_heads(self, **inputs: Any) -> None:
        if self.limits is not None:
            self._decode_selected(self.limits, **inputs)
        elif self._objects is not None:
            self._embed_shown(self._objects, **inputs)
        else:
            super()._run_segmentation_heads(**inputs)

    def _embed_shown(
        self,
        objects: Tensor,
        *,
        out: dict[str, Any],
        backbone_out: dict[str, Any],
        img_ids: Tensor,
        encoder_hidden_states: Tensor,
        prompt: Tensor,
        prompt_mask: Tensor,
        hs: Tensor,
        **_: Any,
    ) -> None:
        """Of prompts with objects (P,) only.

        With activation checkpointing, one prompt after the other: the backward pass computes
        them again, and so holds the activations of one prompt only, 0.6 GB at full size.
        """
        shown, again = shown_prompts(objects), self.use_act_checkpoint_seg_head
        embed = self.segmentation_head
        if again:
            embed = partial(checkpoint, self.segmentation_head, use_reentrant=False)
        parts = [
            embed(
                backbone_feats=backbone_out["backbone_fpn"],
                obj_queries=hs[-1:, rows],
                image_ids=img_ids[rows],
                encoder_hidden_states=encoder_hidden_states[:, rows],
                prompt=prompt[:, rows],
                prompt_mask=prompt_mask[rows],
            )
            for rows in shown.split(1 if again else len(shown))
        ]
        pixels = [pixels for part in parts for pixels in part["pixels"].unbind()]
        # One half of the queries is matched one-to-one, the other one-to-many.
        halves = torch.cat([part["queries"] for part in parts]).chunk(2, dim=1)
        for name, queries in zip(("pred_masks", "pred_masks_o2m"), halves, strict=True):
            out[name] = MaskEmbeddings(queries, pixels)
        mask_rows = torch.full_like(objects, -1)
        mask_rows[shown] = torch.arange(len(shown), device=shown.device)
        out["mask_rows"] = out["mask_rows_o2m"] = mask_rows

    def _compute_matching(self, out: dict[str, Any], targets: object) -> None:
        """Nothing: the loss matches all decoder layers at once."""

    def _decode_selected(self, limits: _Limits, *, out: dict[str, Any], **inputs: Any) -> None:
        scores, order = _detection_scores(out).sort(dim=1, descending=True, stable=True)
        most = limits.max_detections or scores.shape[1]
        counts = (scores >= limits.min_score).sum(dim=1).clamp(max=most)  # (P,)
        rows = counts.nonzero().flatten()  # the prompts with detections
        logits: list[Tensor | None] = [None] * len(counts)
        if len(rows):
            found = self._mask_logits(rows, order[rows, : int(counts.max())], **inputs)
            for row, masks in zip(rows.tolist(), found, strict=True):
                logits[row] = masks[: counts[row]]
        out["selected"] = [
            Selected(queries[:n], score[:n], masks)
            for queries, score, n, masks in zip(order, scores, counts.tolist(), logits, strict=True)
        ]

    def _mask_logits(
        self,
        rows: Tensor,
        queries: Tensor,
        *,
        backbone_out: dict[str, Any],
        img_ids: Tensor,
        encoder_hidden_states: Tensor,
        prompt: Tensor,
        prompt_mask: Tensor,
        hs: Tensor,
        **_: Any,
    ) -> Tensor:
        """(R, n, h, w) mask logits of queries (R, n) of R prompts."""
        found = self.segmentation_head(
            backbone_feats=backbone_out["backbone_fpn"],
            obj_queries=hs[-1:, rows[:, None], queries],  # (1, R, n, C)
            image_ids=img_ids[rows],
            encoder_hidden_states=encoder_hidden_states[:, rows],
            prompt=prompt[:, rows],
            prompt_mask=prompt_mask[rows],
        )
        logits: Tensor = found["pred_masks"]
        return logits


def shown_prompts(objects: Tensor) -> Tensor:
    """(R,) the prompts that have objects, of (P,) counts; the first prompt where none has any.

    One row is always decoded, so that every adapter has a gradient whatever a batch shows.
    """
    shown = objects > 0
    shown[0] |= ~shown.any()
    return shown.nonzero().flatten()


@contextmanager
def limit_masks(
    model: Sam3Image, *, min_score: float, max_detections: int | None
) -> Iterator[None]:
    """Within, the model only decodes the masks of the best detections of each prompt.

    Its outputs then hold under `selected` a `Selected` per prompt. For a prompt without
    detections, pixels are not decoded at all.

    Args:
        model: in evaluation mode.
        min_score: lowest score of a selected detection.
        max_detections: maximum number of selected detections per prompt; None: no limit.
    """
    model.limits = _Limits(min_score, max_detections)
    try:
        yield
    finally:
        model.limits = None


def _detection_scores(outputs: dict[str, Any]) -> Tensor:
    """(P, Q) score of a query, times the probability that its prompt is in the image at all."""
    presence = outputs["presence_logit_dec"].float().sigmoid()  # (P, 1)
    scores: Tensor = outputs["pred_logits"].float().sigmoid().squeeze(-1) * presence
    return scores
