"""Which adapter is kept: the one with the best score on the valid split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segtune.core.console import log_line
from segtune.dataset.coco import Split, has_masks
from segtune.evaluation.average_precision import average_precision
from segtune.evaluation.cgf1 import concept_counts, concept_scores
from segtune.reports.drawing import contact_sheet, save_sheet, spread_out
from segtune.training.run import Run, adapter_values, ema_weights

IMAGES = 8  # of the valid split, drawn at each validation


def valid_scores(valid: Split, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Box and mask AP and cgF1 of predictions on the valid split, and AP per class.

    cgF1 and the AP per class are of masks where there are some. What cannot be measured is 0
    over all classes, and left out per class.
    """
    found = {"box_AP": average_precision(valid, results, "bbox")}
    if has_masks(valid):
        found["mask_AP"] = average_precision(valid, results, "segm")
    per_class = found.get("mask_AP", found["box_AP"])["per_class"]
    concepts = concept_counts(valid, results, has_masks(valid)).sum(0)
    return {
        **{name: summary["AP"] or 0.0 for name, summary in found.items()},
        "cgF1": float(concept_scores(concepts)["cgF1"]),
        "per_class": {name: value for name, value in per_class.items() if value is not None},
    }


def keep_best(
    run: Run, scores: dict[str, Any], results: Sequence[dict[str, Any]], out: Path
) -> None:
    """Keep the adapters if none was better; record and draw what was found."""
    position = run.position
    average = scores.get("mask_AP", scores["box_AP"])
    score = average if run.settings.select_by == "AP" else scores["cgF1"]
    if position.epoch == 0:
        position.base_score = score
    else:
        position.validations_since_best += 1
        if score > position.best_score:
            position.validations_since_best = 0
        if score >= position.best_score:
            position.best_score, position.best_epoch = score, position.epoch
            with ema_weights(run):
                run.best_adapter = adapter_values(run.model)
    if run.history:
        run.history.add("valid", position.step, {"epoch": position.epoch, **scores})
        sheet = contact_sheet(run.valid, spread_out(run.valid.images, IMAGES), results)
        save_sheet(out / "valid_images" / f"epoch_{position.epoch:04d}.jpg", sheet)
        run.history.image("valid/images", position.step, sheet)
        totals = {name: value for name, value in scores.items() if name != "per_class"}
        told = "  ".join(f"{name} {value:.4f}" for name, value in totals.items())
        log_line(f"valid after epoch {position.epoch}: {told}")
