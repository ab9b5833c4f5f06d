"""Make the page of an evaluation.

Detections are classified again with the confidence thresholds in the metrics, because the page
shows them on images.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.core.console import log_line
from segtune.core.errors import DatasetError, exit_on_error
from segtune.core.typed_json import read_typed
from segtune.dataset.coco import Split, read_split, with_rle_masks
from segtune.dataset.detections import read_detections
from segtune.evaluation.error_types import ErrorRecord, classify_errors
from segtune.evaluation.metrics import Metrics, ModelMetrics, read_metrics
from segtune.evaluation.strength_curve import StrengthCurve, read_strength_curve
from segtune.reports.evaluation_page import write_evaluation_page


@dataclass(frozen=True)
class _Merged:
    """The part of `parity.json` that the page needs."""

    strength: float


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if bool(arguments.strengths) != bool(arguments.parity):
        parser.error("--strengths and --parity go together")
    with exit_on_error("evaluate_page"):
        metrics = read_metrics(arguments.metrics)
        test = with_rle_masks(read_split(arguments.coco))
        splits = [test, *([read_split(arguments.valid)] if arguments.valid else [])]
        _require_same_data(metrics, splits, arguments.metrics)
        write_evaluation_page(
            arguments.out,
            metrics=metrics,
            test=test,
            splits=splits,
            errors={
                "base": _errors(arguments.base, test, metrics.base, metrics),
                "tuned": _errors(arguments.tuned, test, metrics.tuned, metrics),
            },
            strengths=_strengths(arguments),
        )
        log_line(f"wrote {arguments.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.evaluate_page", description=__doc__)
    parser.add_argument("--metrics", type=Path, required=True, help="metrics.json of evaluate")
    parser.add_argument("--coco", type=Path, required=True, help="the test split")
    parser.add_argument("--base", type=Path, required=True, help="zero-shot predictions")
    parser.add_argument("--tuned", type=Path, required=True, help="fine-tuned predictions")
    parser.add_argument("--valid", type=Path, help="the valid split, for its label issues")
    parser.add_argument("--strengths", type=Path, help="strength.json, if that was chosen")
    parser.add_argument("--parity", type=Path, help="parity.json of the merge, with --strengths")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    return parser


def _strengths(arguments: argparse.Namespace) -> tuple[StrengthCurve, float] | None:
    """The strengths that were compared, and the one that was merged."""
    if not arguments.strengths:
        return None
    merged = read_typed(arguments.parity, _Merged, fix="Run segtune.merge again")
    return read_strength_curve(arguments.strengths), merged.strength


def _require_same_data(metrics: Metrics, splits: Sequence[Split], path: Path) -> None:
    test = splits[0]
    classes = {category.name for category in test.categories}
    images = {(split.name, image.id) for split in splits for image in split.images}
    listed = {(issue.split, issue.image_id) for issue in metrics.label_issues}
    if (
        metrics.counts.images != len(test.images)
        or metrics.base.calibration.thresholds.keys() != classes
        or not listed <= images
    ):
        raise DatasetError(
            "these metrics were computed on other images or classes",
            file=path,
            fix="Give the splits that were evaluated, or run segtune.evaluate again",
        )


def _errors(
    detections: Path, split: Split, model: ModelMetrics, metrics: Metrics
) -> list[ErrorRecord]:
    chosen = model.calibration.thresholds
    thresholds = {c.id: chosen[c.name].threshold for c in split.categories}
    found = read_detections(detections, split)
    return classify_errors(split, found, thresholds, with_masks=metrics.kind == "mask")


if __name__ == "__main__":
    main()
