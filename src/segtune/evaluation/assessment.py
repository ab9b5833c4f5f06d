"""All metrics of one model, and the differences between two with their intervals."""

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from segtune.dataset.coco import Split, has_masks
from segtune.dataset.detections import Detections
from segtune.evaluation.arrays import Array
from segtune.evaluation.average_precision import Kind, score_detections
from segtune.evaluation.bootstrap import (
    mean_over_classes,
    paired_differences,
    paired_statistics,
)
from segtune.evaluation.calibration import (
    at_threshold,
    best_threshold,
    precision_recall,
    reliability,
)
from segtune.evaluation.cgf1 import concept_counts, concept_scores, concept_values
from segtune.evaluation.error_types import classify_errors, confusion, error_counts
from segtune.evaluation.false_alarms import (
    false_alarm_counts,
    false_alarm_rates,
    rates_by_class,
)
from segtune.evaluation.matching import ClassMatches
from segtune.evaluation.metrics import (
    Calibration,
    ChosenThreshold,
    ClassIntervals,
    ClassScores,
    ConceptIntervals,
    Differences,
    ModelMetrics,
    Overlap,
    OverlapIntervals,
)
from segtune.evaluation.pixel_overlap import overlap_values, pixel_counts


@dataclass(frozen=True)
class ModelEvaluation:
    """One model on the test split; the arrays are per image, for the intervals."""

    matches: dict[Kind, tuple[ClassMatches, ...]]
    concepts: dict[Kind, Array]
    pixels: Array | None
    alarms: Array
    metrics: ModelMetrics


def main_kind(split: Split) -> Kind:
    """What is compared: masks where there are some, else boxes."""
    return "mask" if has_masks(split) else "box"


def match_detections(split: Split, detections: Detections, kind: Kind) -> tuple[ClassMatches, ...]:
    """Per class, which detections match an object."""
    return score_detections(split, detections, kind).matches


def evaluate_model(
    split: Split,
    detections: Detections,
    *,
    valid: Sequence[ClassMatches] | None,
    confidence_threshold: float,
) -> ModelEvaluation:
    """Measure one model.

    Args:
        split: the test split.
        detections: of the model on it.
        valid: per class, its matches on the valid split, where thresholds are chosen.
        confidence_threshold: for false alarms, and for classes without one chosen on `valid`.
    """
    kinds: list[Kind] = ["box", "mask"] if has_masks(split) else ["box"]
    with_masks = "mask" in kinds
    scored = {kind: score_detections(split, detections, kind) for kind in kinds}
    names = {category.id: category.name for category in split.categories}
    chosen = _chosen_thresholds(split, valid)
    thresholds = {number: chosen.get(number, confidence_threshold) for number in names}
    concepts = {kind: concept_counts(split, detections, kind == "mask") for kind in kinds}
    pixels = pixel_counts(split, detections, thresholds) if with_masks else None
    alarms = false_alarm_counts(split, detections, confidence_threshold)
    errors = classify_errors(split, detections, thresholds, with_masks=with_masks)
    return ModelEvaluation(
        matches={kind: found.matches for kind, found in scored.items()},
        concepts=concepts,
        pixels=pixels,
        alarms=alarms,
        metrics=ModelMetrics(
            box=scored["box"].summary,
            mask=scored["mask"].summary if with_masks else None,
            cgf1={kind: concept_scores(counts) for kind, counts in concepts.items()},
            overlap=None if pixels is None else _overlap(pixels, list(names.values())),
            false_alarms=rates_by_class(split, alarms),
            calibration=_calibration(split, scored[kinds[-1]].matches, thresholds, chosen=chosen),
            errors=error_counts(errors, names),
            confusion=confusion(errors, names),
        ),
    )


def compare(
    split: Split, base: ModelEvaluation, tuned: ModelEvaluation, *, resamples: int
) -> Differences:
    """Tuned minus base with 95% intervals."""
    names = [category.name for category in split.categories]
    alarms = _class_intervals(
        names,
        base.alarms,
        tuned.alarms,
        lambda sums: {"rate": false_alarm_rates(sums)},
        resamples=resamples,
    )
    return Differences(
        average_precision={
            kind: _ap_intervals(names, base.matches[kind], tuned.matches[kind], resamples=resamples)
            for kind in base.matches
        },
        cgf1={
            kind: _concept_intervals(base.concepts[kind], tuned.concepts[kind], resamples=resamples)
            for kind in base.concepts
        },
        false_alarms=alarms["rate"],
        overlap=_overlap_intervals(names, base.pixels, tuned.pixels, resamples=resamples),
    )


def _chosen_thresholds(split: Split, valid: Sequence[ClassMatches] | None) -> dict[int, float]:
    """Class id -> the best threshold on the valid split, where that has any."""
    if valid is None:
        return {}
    best = zip(split.categories, map(best_threshold, valid), strict=True)
    return {category.id: found.threshold for category, found in best if found}


def _class_intervals(
    names: Sequence[str],
    base: Array,
    tuned: Array,
    statistics: Callable[[Array], Mapping[str, Array]],
    *,
    resamples: int,
) -> dict[str, ClassIntervals]:
    """Of values per class, and of their mean over the classes that can be measured."""

    def with_mean(sums: Array) -> dict[str, Array]:
        return {
            name: np.column_stack([mean_over_classes(values), values])
            for name, values in statistics(sums).items()
        }

    found = paired_statistics(base, tuned, with_mean, resamples=resamples)
    return {
        name: ClassIntervals(mean, dict(zip(names, per_class, strict=True)))
        for name, (mean, *per_class) in found.items()
    }


def _ap_intervals(
    names: Sequence[str],
    base: Sequence[ClassMatches],
    tuned: Sequence[ClassMatches],
    *,
    resamples: int,
) -> ClassIntervals:
    mean, per_class = paired_differences(base, tuned, resamples)
    return ClassIntervals(mean, dict(zip(names, per_class, strict=True)))


def _concept_intervals(base: Array, tuned: Array, *, resamples: int) -> ConceptIntervals:
    def columns(sums: Array) -> dict[str, Array]:
        return {name: values[:, None] for name, values in concept_values(sums).items()}

    found = paired_statistics(base, tuned, columns, resamples=resamples)
    return ConceptIntervals(**{name: interval for name, (interval,) in found.items()})


def _overlap_intervals(
    names: Sequence[str], base: Array | None, tuned: Array | None, *, resamples: int
) -> OverlapIntervals | None:
    if base is None or tuned is None:
        return None
    return OverlapIntervals(
        **_class_intervals(names, base, tuned, overlap_values, resamples=resamples)
    )


def _overlap(pixels: Array, names: Sequence[str]) -> Overlap:
    measures = {}
    for measure, values in overlap_values(pixels.sum(0)).items():
        per_class = {
            name: None if math.isnan(value) else value
            for name, value in zip(names, values.tolist(), strict=True)
        }
        known = [value for value in per_class.values() if value is not None]
        measures[measure] = ClassScores(sum(known) / len(known) if known else None, per_class)
    return Overlap(**measures)


def _calibration(
    split: Split,
    matches: Sequence[ClassMatches],
    thresholds: Mapping[int, float],
    *,
    chosen: Container[int],
) -> Calibration:
    classes = list(zip(split.categories, matches, strict=True))
    return Calibration(
        thresholds={
            category.name: ChosenThreshold(
                **asdict(at_threshold(found, thresholds[category.id])),
                chosen_on_valid=category.id in chosen,
            )
            for category, found in classes
        },
        curves={category.name: precision_recall(found) for category, found in classes},
        reliability=reliability(matches),
    )
