"""All numbers about one model, and the differences of two with their intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segtune.alarms import alarm_counts, alarm_shares, shares_by_class
from segtune.bootstrap import Interval, mean_over_classes, paired_differences, paired_statistics
from segtune.calibration import at_threshold, precision_recall, reliability, thresholds_of
from segtune.cgf1 import concept_counts, concept_scores
from segtune.coco import Split, has_masks
from segtune.matches import ClassMatches
from segtune.metrics import Array, IouType, Result, Scored, score
from segtune.mistakes import Judged, confusion, counts, judge
from segtune.overlap import overlaps, pixel_counts

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Assessment:
    """One model on the test split; the arrays are per picture, for the intervals."""

    matches: dict[str, tuple[ClassMatches, ...]]  # by "box" and perhaps "mask"
    concepts: dict[str, Array]
    pixels: Array | None
    alarms: Array
    judged: list[Judged]
    numbers: Metrics


def main_kind(split: Split) -> str:
    """What is judged: masks where there are some, else boxes."""
    return "mask" if has_masks(split) else "box"


def matched(split: Split, results: Sequence[Result], kind: str) -> Scored:
    """Score by boxes or masks."""
    iou_types: dict[str, IouType] = {"box": "bbox", "mask": "segm"}
    return score(split, results, iou_types[kind])


def assess(
    split: Split,
    results: Sequence[Result],
    valid: Sequence[ClassMatches] | None,
    false_alarm_score: float,
) -> Assessment:
    """Measure one model.

    Args:
        split: the test split.
        results: the model's detections on it, in COCO's results format.
        valid: per class, its matches on the valid split, where thresholds are chosen.
        false_alarm_score: from which a detection of an absent class counts; also the
            threshold of a class that `valid` says nothing about.
    """
    kinds = ["box", "mask"] if has_masks(split) else ["box"]
    found = {kind: matched(split, results, kind) for kind in kinds}
    names = {category.id: category.name for category in split.categories}
    chosen = thresholds_of(names, valid)
    thresholds = {
        number: false_alarm_score if best is None else best
        for number, best in zip(names, chosen.values(), strict=True)
    }
    concepts = {kind: concept_counts(split, results, kind == "mask") for kind in kinds}
    pixels = pixel_counts(split, results, thresholds) if "mask" in kinds else None
    judged = judge(split, results, thresholds, "mask" in kinds)
    alarms = alarm_counts(split, results, false_alarm_score)
    numbers = {
        "box": found["box"].summary,
        "mask": found["mask"].summary if "mask" in found else None,
        "cgF1": {kind: _floats(concept_scores(c.sum(0))) for kind, c in concepts.items()},
        "overlap": None if pixels is None else _overlap(pixels, list(names.values())),
        "false_alarms": shares_by_class(split, alarms),
        "calibration": _calibration(split, found[kinds[-1]].matches, thresholds, chosen),
        "mistakes": counts(judged, names),
        "confusion": confusion(judged, names),
    }
    matches = {kind: scored.matches for kind, scored in found.items()}
    return Assessment(matches, concepts, pixels, alarms, judged, numbers)


def differences(split: Split, base: Assessment, tuned: Assessment, resamples: int) -> Metrics:
    """Tuned minus base with 95 % intervals: of AP, cgF1, overlaps and false alarms."""
    names = [category.name for category in split.categories]
    found: Metrics = {
        kind: _ap_difference(names, base.matches[kind], tuned.matches[kind], resamples)
        for kind in base.matches
    }
    found["cgF1"] = {
        kind: _only(
            paired_statistics(base.concepts[kind], tuned.concepts[kind], _columns, resamples)
        )
        for kind in base.concepts
    }
    alarms = _class_differences(
        names, base.alarms, tuned.alarms, lambda s: {"share": alarm_shares(s)}, resamples
    )
    found["false_alarms"] = alarms["share"]
    found["overlap"] = None
    if base.pixels is not None and tuned.pixels is not None:
        pixels = (base.pixels, tuned.pixels)
        found["overlap"] = _class_differences(names, *pixels, overlaps, resamples)
    return found


def _class_differences(
    names: Sequence[str],
    base: Array,
    tuned: Array,
    value: Callable[[Array], Mapping[str, Array]],
    resamples: int,
) -> Metrics:
    """Of values per class, and of their mean over the classes that can be measured."""

    def with_mean(sums: Array) -> dict[str, Array]:
        return {
            name: np.column_stack([mean_over_classes(values), values])
            for name, values in value(sums).items()
        }

    found = paired_statistics(base, tuned, with_mean, resamples)
    return {
        name: {"mean": asdict(mean), "per_class": _named(names, per_class)}
        for name, (mean, *per_class) in found.items()
    }


def _ap_difference(
    names: Sequence[str],
    base: Sequence[ClassMatches],
    tuned: Sequence[ClassMatches],
    resamples: int,
) -> Metrics:
    overall, per_class = paired_differences(base, tuned, resamples)
    return {"AP": asdict(overall), "per_class": _named(names, per_class)}


def _columns(sums: Array) -> dict[str, Array]:
    return {name: values[:, None] for name, values in concept_scores(sums).items()}


def _only(found: Mapping[str, Sequence[Interval]]) -> Metrics:
    return {name: asdict(interval) for name, (interval,) in found.items()}


def _named(names: Sequence[str], intervals: Sequence[Interval]) -> Metrics:
    return {name: asdict(interval) for name, interval in zip(names, intervals, strict=True)}


def _floats(values: Mapping[str, Array]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _overlap(pixels: Array, names: Sequence[str]) -> Metrics:
    """Per name of a measure, each class and the mean over the classes that can be measured."""
    found: Metrics = {}
    for measure, values in overlaps(pixels.sum(0)).items():
        per_class = {
            name: None if math.isnan(value) else value
            for name, value in zip(names, values.tolist(), strict=True)
        }
        known = [value for value in per_class.values() if value is not None]
        mean = sum(known) / len(known) if known else None
        found[measure] = {"mean": mean, "per_class": per_class}
    return found


def _calibration(
    split: Split,
    matches: Sequence[ClassMatches],
    thresholds: Mapping[int, float],
    chosen: Mapping[str, float | None],
) -> Metrics:
    classes = list(zip(split.categories, matches, strict=True))
    return {
        "thresholds": {
            category.name: {
                **asdict(at_threshold(found, thresholds[category.id])),
                "chosen_on_valid": chosen[category.name] is not None,
            }
            for category, found in classes
        },
        "curves": {category.name: precision_recall(found) for category, found in classes},
        "reliability": reliability(matches),
    }
