"""SAM 3 that only decodes the masks of its best detections."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

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
    max_detections: int  # per prompt


class SelectiveMaskSam3(Sam3Image):
    """The stock model, except within `limit_masks`."""

    limits: _Limits | None = None

    def _run_segmentation_heads(self, **inputs: Any) -> None:
        if self.limits is None:
            super()._run_segmentation_heads(**inputs)
        else:
            self._decode_selected(self.limits, **inputs)

    def _decode_selected(self, limits: _Limits, *, out: dict[str, Any], **inputs: Any) -> None:
        scores, order = _detection_scores(out).sort(dim=1, descending=True, stable=True)
        counts = (scores >= limits.min_score).sum(dim=1).clamp(max=limits.max_detections)  # (P,)
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


@contextmanager
def limit_masks(model: Sam3Image, *, min_score: float, max_detections: int) -> Iterator[None]:
    """Within, the model only decodes the masks of the best detections of each prompt.

    Its outputs then hold under `selected` a `Selected` per prompt. For a prompt without
    detections, pixels are not decoded at all.

    Args:
        model: in evaluation mode.
        min_score: lowest score of a selected detection.
        max_detections: maximum number of selected detections per prompt.
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
