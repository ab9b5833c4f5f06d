"""Score base and fine-tuned predictions side by side on the held-out test split.

With the same models' predictions on the valid split, the confidence threshold of each class is
chosen there. With their predictions for out-of-distribution prompts, forgetting is measured.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from segtune.core.atomic import atomic_path
from segtune.core.config import EvaluateSettings, parse_section
from segtune.core.console import log_line
from segtune.core.errors import DatasetError, exit_on_error
from segtune.core.publishing import published
from segtune.core.typed_json import write_typed
from segtune.dataset.coco import Split, read_split, with_rle_masks
from segtune.dataset.detections import Detections, read_detections, read_prompted_detections
from segtune.evaluation.assessment import (
    ModelEvaluation,
    compare,
    evaluate_model,
    main_kind,
    match_detections,
)
from segtune.evaluation.average_precision import Kind
from segtune.evaluation.calibration import MIN_SCORE
from segtune.evaluation.error_types import classify_errors
from segtune.evaluation.forgetting import Forgetting, measure_forgetting
from segtune.evaluation.label_issues import LabelIssue, find_label_issues
from segtune.evaluation.matching import ClassMatches
from segtune.evaluation.metrics import (
    Counts,
    Differences,
    Metrics,
    ModelMetrics,
    Outcome,
    Verdict,
)

MODELS = ("base", "tuned")
MAX_LABEL_ISSUES = 50  # listed per split
MIN_PARALLEL_DETECTIONS = 10_000  # with fewer, a second process is not worth its start


@dataclass(frozen=True)
class _Valid:
    """What the valid split contributes: confidence thresholds, and labels to check."""

    split: Split
    matches: dict[str, tuple[ClassMatches, ...]]  # by model
    label_issues: list[LabelIssue]


def main(argv: Sequence[str] | None = None) -> None:
    """Write `metrics.json` and `per_class.csv`."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    for given in (
        (arguments.valid, arguments.base_valid, arguments.tuned_valid),
        (arguments.base_ood, arguments.tuned_ood),
    ):
        if any(given) and not all(given):
            parser.error(
                "--valid, --base-valid and --tuned-valid go together, "
                "and so do --base-ood and --tuned-ood"
            )
    with exit_on_error("evaluate"), published(arguments.out) as folder:
        settings = parse_section(EvaluateSettings, arguments.settings)
        split = with_rle_masks(read_split(arguments.coco))
        if not split.images or not split.categories:
            raise DatasetError(
                "no images or no classes to evaluate on",
                file=arguments.coco,
                fix="Check the export that this split was converted from",
            )
        metrics = _evaluate(arguments, split, settings)
        _write_per_class(folder / "per_class.csv", metrics)
        write_typed(folder / "metrics.json", metrics)
    log_line(metrics.verdict.sentence)


def _evaluate(arguments: argparse.Namespace, split: Split, settings: EvaluateSettings) -> Metrics:
    kind = main_kind(split)
    detections = {model: read_detections(vars(arguments)[model], split) for model in MODELS}
    valid = _on_valid(arguments, kind) if arguments.valid else None
    evaluated = _evaluate_models(split, detections, valid, settings.confidence_threshold)
    base, tuned = evaluated["base"], evaluated["tuned"]
    held_out = not (valid and _share_images(split, valid.split))
    issues = _label_issues(split, detections["tuned"], tuned.matches[kind], kind)
    if valid and held_out:
        issues += valid.label_issues
    counts = _counts(split)
    difference = compare(split, base, tuned, resamples=settings.resamples)
    return Metrics(
        verdict=_verdict(
            kind,
            base=base.metrics,
            tuned=tuned.metrics,
            difference=difference,
            cautions=_cautions(counts, held_out=held_out),
        ),
        kind=kind,
        held_out=held_out,
        confidence_threshold=settings.confidence_threshold,
        counts=counts,
        base=base.metrics,
        tuned=tuned.metrics,
        difference=difference,
        forgetting=_forgetting(arguments, split, settings.confidence_threshold),
        label_issues=sorted(issues, key=lambda issue: -issue.issue_score),
    )


def _verdict(
    kind: Kind,
    *,
    base: ModelMetrics,
    tuned: ModelMetrics,
    difference: Differences,
    cautions: str,
) -> Verdict:
    """Better, worse or undecided, by how much, and with which reservations."""
    found = difference.average_precision[kind].mean
    if found.difference is None or found.low is None or found.high is None:
        sentence = "undecided: the test split has nothing to measure"
        return Verdict(Outcome.UNDECIDED, sentence)
    if found.low > 0:
        outcome, summary = Outcome.BETTER, "fine-tuned is better than zero-shot"
    elif found.high < 0:
        outcome, summary = Outcome.WORSE, "fine-tuned is WORSE than zero-shot"
    else:
        outcome, summary = Outcome.UNDECIDED, "undecided between fine-tuned and zero-shot"
    before, after = (model.average_precision(kind).AP for model in (base, tuned))
    return Verdict(
        outcome,
        f"{summary} on the test split: {kind} AP {after:.4f} fine-tuned vs. {before:.4f} "
        f"zero-shot ({found.difference:+.4f}, 95% interval {found.low:+.4f} to "
        f"{found.high:+.4f}){cautions}",
    )


def _cautions(counts: Counts, *, held_out: bool) -> str:
    cautions = "" if held_out else "; not held out, so the scores are optimistically biased"
    return cautions + (f"; only {counts.images} images" if counts.few_images else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.evaluate", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="the test split")
    parser.add_argument("--base", type=Path, required=True, help="zero-shot predictions")
    parser.add_argument("--tuned", type=Path, required=True, help="fine-tuned predictions")
    parser.add_argument("--valid", type=Path, help="the valid split")
    parser.add_argument("--base-valid", type=Path, help="zero-shot predictions on valid")
    parser.add_argument("--tuned-valid", type=Path, help="fine-tuned predictions on valid")
    parser.add_argument("--base-ood", type=Path, help="zero-shot, for out-of-distribution prompts")
    parser.add_argument("--tuned-ood", type=Path, help="fine-tuned, for the same prompts")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--settings", default="{}", help="the evaluate section, as JSON")
    return parser


def _on_valid(arguments: argparse.Namespace, kind: Kind) -> _Valid:
    split = with_rle_masks(read_split(arguments.valid))
    found = {m: read_detections(vars(arguments)[f"{m}_valid"], split) for m in MODELS}
    matches = {model: match_detections(split, found[model], kind) for model in MODELS}
    return _Valid(split, matches, _label_issues(split, found["tuned"], matches["tuned"], kind))


def _evaluate_models(
    split: Split, detections: Mapping[str, Detections], valid: _Valid | None, threshold: float
) -> dict[str, ModelEvaluation]:
    """Evaluate both models, in parallel where that is worth the start of a process."""
    matches = valid.matches if valid else dict.fromkeys(MODELS)
    evaluate = partial(evaluate_model, confidence_threshold=threshold)
    if sum(map(len, detections.values())) < MIN_PARALLEL_DETECTIONS:
        return {model: evaluate(split, detections[model], valid=matches[model]) for model in MODELS}
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        base = pool.submit(evaluate, split, detections["base"], valid=matches["base"])
        tuned = evaluate(split, detections["tuned"], valid=matches["tuned"])
        return {"base": base.result(), "tuned": tuned}


def _share_images(split: Split, other: Split) -> bool:
    """Whether the export has no test split and `valid` stands in for it."""
    return bool({i.file_name for i in split.images} & {i.file_name for i in other.images})


def _label_issues(
    split: Split, tuned: Detections, matches: Sequence[ClassMatches], kind: Kind
) -> list[LabelIssue]:
    thresholds = {category.id: MIN_SCORE for category in split.categories}
    records = classify_errors(split, tuned, thresholds, with_masks=kind == "mask")
    return find_label_issues(split, records, matches, limit=MAX_LABEL_ISSUES)


def _forgetting(arguments: argparse.Namespace, split: Split, threshold: float) -> Forgetting | None:
    if not arguments.base_ood:
        return None
    base, tuned = (
        read_prompted_detections(vars(arguments)[f"{model}_ood"], split) for model in MODELS
    )
    return measure_forgetting(split, base, tuned, threshold=threshold)


def _counts(split: Split) -> Counts:
    return Counts(
        images=len(split.images),
        objects=len(split.objects),
        box_only_objects=sum(not a.segmentation for a in split.objects),
    )


def _write_per_class(path: Path, metrics: Metrics) -> None:
    rows = [_row(name, metrics) for name in metrics.base.false_alarms]
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def _row(name: str, metrics: Metrics) -> dict[str, Any]:
    """The columns of a class; what cannot be measured becomes an empty cell."""
    row: dict[str, Any] = {"class": name}
    for model, found in (("base", metrics.base), ("tuned", metrics.tuned)):
        columns = _model_columns(name, found, metrics.kind)
        row |= {f"{model}_{column}": value for column, value in columns.items()}
    interval = metrics.difference.average_precision[metrics.kind].per_class[name]
    return row | {
        "difference": interval.difference,
        "difference_low": interval.low,
        "difference_high": interval.high,
    }


def _model_columns(name: str, found: ModelMetrics, kind: Kind) -> dict[str, Any]:
    masks, overlap = found.mask, found.overlap
    chosen = found.calibration.thresholds[name]
    by_size = found.average_precision(kind).per_class_and_size[name]
    return {
        "box_AP": found.box.per_class[name],
        "mask_AP": masks and masks.per_class[name],
        **{f"{kind}_AP_{size}": value for size, value in by_size.items()},
        "dice": overlap and overlap.dice.per_class[name],
        "iou": overlap and overlap.iou.per_class[name],
        "boundary_iou": overlap and overlap.boundary_iou.per_class[name],
        "false_alarms": found.false_alarms[name],
        "threshold": chosen.threshold,
        "precision": chosen.precision,
        "recall": chosen.recall,
    }


if __name__ == "__main__":
    main()
