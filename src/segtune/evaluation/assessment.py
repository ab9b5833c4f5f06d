"""All numbers about one model, and the differences of two with their intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from segtune.dataset.coco import Split, has_masks
from segtune.dataset.detections import Detections
from segtune.evaluation.average_precision import Array, Kind, score_detections
from segtune.evaluation.bootstrap import (
    Interval,
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
    """What is judged: masks where there are some, else boxes."""
    return "mask" if has_masks(split) else "box"


def match_detections(split: Split, detections: Detections, kind: Kind) -> tuple[ClassMatches, ...]:
    """Per class, which detections match an object."""
    return score_detections(split, detections, kind).matches


def evaluate_model(
    split: Split,
    detections: Detections,
    valid: Sequence[ClassMatches] | None,
    confidence_threshold: float,
) -> ModelEvaluation:
    """Measure one model.

    Args:
        split: the test split.
        detections: of the model on it.
        valid: per class, its matches on the valid split, where thresholds are chosen.
        confidence_threshold: of false alarms; also of a class that `valid` says nothing about.
    """
    kinds: list[Kind] = ["box", "mask"] if has_masks(split) else ["box"]
    with_masks = "mask" in kinds
    found = {kind: score_detections(split, detections, kind) for kind in kinds}
    names = {category.id: category.name for category in split.categories}
    chosen = _thresholds(split, valid)
    thresholds = {
        number: confidence_threshold if best is None else best for number, best in chosen.items()
    }
    concepts = {kind: concept_counts(split, detections, kind == "mask") for kind in kinds}
    pixels = pixel_counts(split, detections, thresholds) if with_masks else None
    errors = classify_errors(split, detections, thresholds, with_masks)
    alarms = false_alarm_counts(split, detections, confidence_threshold)
    matches = {kind: scored.matches for kind, scored in found.items()}
    metrics = ModelMetrics(
        box=found["box"].summary,
        mask=found["mask"].summary if with_masks else None,
        cgf1={kind: concept_scores(counts) for kind, counts in concepts.items()},
        overlap=None if pixels is None else _overlap(pixels, list(names.values())),
        false_alarms=rates_by_class(split, alarms),
        calibration=_calibration(split, matches[kinds[-1]], thresholds, chosen),
        errors=error_counts(errors, names),
        confusion=confusion(errors, names),
    )
    return ModelEvaluation(matches, concepts, pixels, alarms, metrics)


def compare(
    split: Split, base: ModelEvaluation, tuned: ModelEvaluation, resamples: int
) -> Differences:
    """Tuned minus base with 95 % intervals."""
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
            kind: _ap_intervals(names, base.matches[kind], tuned.matches[kind], resamples)
            for kind in base.matches
        },
        cgf1={
            kind: _concept_intervals(base.concepts[kind], tuned.concepts[kind], resamples)
            for kind in base.concepts
        },
        false_alarms=alarms["rate"],
        overlap=_overlap_intervals(names, base.pixels, tuned.pixels, resamples),
    )


def _thresholds(split: Split, valid: Sequence[ClassMatches] | None) -> dict[int, float | None]:
    """Class id -> the best threshold on the valid split, None where nothing is known there."""
    best = (
        [best_threshold(matches) for matches in valid] if valid else [None] * len(split.categories)
    )
    return {
        category.id: found.threshold if found else None
        for category, found in zip(split.categories, best, strict=True)
    }


def _class_intervals(
    names: Sequence[str],
    base: Array,
    tuned: Array,
    value: Callable[[Array], Mapping[str, Array]],
    *,
    resamples: int,
) -> dict[str, ClassIntervals]:
    """Of values per class, and of their mean over the classes that can be measured."""

    def with_mean(sums: Array) -> dict[str, Array]:
        return {
            name: np.column_stack([mean_over_classes(values), values])
            for name, values in value(sums).items()
        }

    found = paired_statistics(base, tuned, with_mean, resamples)
    return {
        name: ClassIntervals(mean, dict(zip(names, per_class, strict=True)))
        for name, (mean, *per_class) in found.items()
    }


def _ap_intervals(
    names: Sequence[str],
    base: Sequence[ClassMatches],
    tuned: Sequence[ClassMatches],
    resamples: int,
) -> ClassIntervals:
    mean, per_class = paired_differences(base, tuned, resamples)
    return ClassIntervals(mean, dict(zip(names, per_class, strict=True)))


def _concept_intervals(base: Array, tuned: Array, resamples: int) -> ConceptIntervals:
    def columns(sums: Array) -> dict[str, Array]:
        return {name: values[:, None] for name, values in concept_values(sums).items()}

    found: dict[str, Interval] = {
        name: interval
        for name, (interval,) in paired_statistics(base, tuned, columns, resamples).items()
    }
    return ConceptIntervals(**found)


def _overlap_intervals(
    names: Sequence[str], base: Array | None, tuned: Array | None, resamples: int
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
    chosen: Mapping[int, float | None],
) -> Calibration:
    classes = list(zip(split.categories, matches, strict=True))
    return Calibration(
        thresholds={
            category.name: ChosenThreshold(
                **asdict(at_threshold(found, thresholds[category.id])),
                chosen_on_valid=chosen[category.id] is not None,
            )
            for category, found in classes
        },
        curves={category.name: precision_recall(found) for category, found in classes},
        reliability=reliability(matches),
    )
