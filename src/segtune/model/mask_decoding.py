"""SAM 3 that decodes masks for the detections that are kept, and for no others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from segtune.model.sam3_package import Sam3Image


class SelectiveMaskSam3(Sam3Image):
    """The stock model, but for one thing that it can be told: see `keeping`."""

    limits: tuple[float, int] | None = None  # lowest score, and most per prompt

    def _run_segmentation_heads(self, **inputs: Any) -> None:
        if self.limits is None:
            super()._run_segmentation_heads(**inputs)
        else:
            self._decode_kept(*self.limits, **inputs)

    def _decode_kept(
        self,
        lowest: float,
        most: int,
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
        scores, order = _detection_scores(out).sort(dim=1, descending=True, stable=True)
        counts = (scores >= lowest).sum(dim=1).clamp(max=most)  # (P,)
        out["kept"] = [kept[:n] for kept, n in zip(order, counts.tolist(), strict=True)]
        out["kept_scores"] = [kept[:n] for kept, n in zip(scores, counts.tolist(), strict=True)]
        out["kept_masks"] = [None] * len(counts)  # per prompt (n, h, w) logits, best first
        rows = counts.nonzero().flatten()
        if not len(rows):
            return
        queries = order[rows, : int(counts.max())]
        found = self.segmentation_head(
            backbone_feats=backbone_out["backbone_fpn"],
            obj_queries=hs[-1:, rows[:, None], queries],  # (1, rows, n, C)
            image_ids=img_ids[rows],
            encoder_hidden_states=encoder_hidden_states[:, rows],
            prompt=prompt[:, rows],
            prompt_mask=prompt_mask[rows],
        )
        for row, masks in zip(rows.tolist(), found["pred_masks"], strict=True):
            out["kept_masks"][row] = masks[: counts[row]]


@contextmanager
def limit_masks(model: Sam3Image, lowest_score: float, most: int) -> Iterator[None]:
    """Within, the model decodes masks for the best detections of each prompt alone.

    Its outputs then hold `kept`, per prompt the queries from the best score on,
    `kept_scores` and `kept_masks`, per prompt their mask logits (n, h, w) or None for no
    detection. The
    pixels of a prompt without detections are not decoded at all.

    Args:
        model: in evaluation mode.
        lowest_score: of a kept detection.
        most: detections kept per prompt.
    """
    model.limits = (lowest_score, most)
    try:
        yield
    finally:
        model.limits = None


def _detection_scores(outputs: dict[str, Any]) -> Tensor:
    """(P, Q) probability that a query is what its prompt asks for, and that there is any."""
    presence = outputs["presence_logit_dec"].float().sigmoid()  # (P, 1)
    scores: Tensor = outputs["pred_logits"].float().sigmoid().squeeze(-1) * presence
    return scores
