"""The page of an evaluation: the verdict, images, classes, errors, calibration, label issues."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from segtune.dataset.coco import Split
from segtune.evaluation.average_precision import SUMMARY
from segtune.evaluation.bootstrap import Interval
from segtune.evaluation.error_types import ERROR_TYPES, ErrorRecord, ErrorType
from segtune.evaluation.label_issues import LabelIssue
from segtune.evaluation.metrics import ChosenThreshold, Metrics, Outcome
from segtune.evaluation.strength_curve import StrengthCurve
from segtune.reports.drawing import crop, data_uri
from segtune.reports.evaluation_charts import forest, precision_recall, reliability
from segtune.reports.gallery import REASONS, gallery
from segtune.reports.page import write_page
from segtune.reports.strength_chart import strength_chart

MODELS = {"base": "zero-shot", "tuned": "fine-tuned"}
TONES = {Outcome.BETTER: "good", Outcome.WORSE: "bad", Outcome.UNDECIDED: "neutral"}
MAX_CROPS = 12  # of label issues
MEANINGS: dict[ErrorType, str] = {
    "correct": "a detection that matches an object of its class: IoU of at least 0.5",
    "classification": "a detection that matches an object of another class",
    "localization": "a detection that overlaps an object of its class poorly: IoU of 0.1 to 0.5",
    "both": "a detection that overlaps an object of another class poorly",
    "duplicate": "a second detection of an object that already has one",
    "background": "a detection where nothing is labeled: IoU below 0.1 with every object",
    "missed": "an object that was not detected at all",
}


@dataclass(frozen=True)
class Card:
    """A key number of both models, with what it means."""

    name: str
    base: float | None
    tuned: float | None
    interval: Interval
    meaning: str


@dataclass(frozen=True)
class ClassRow:
    """What the table of classes says about one class."""

    name: str
    prompt: str
    objects: int
    base: float | None  # AP
    tuned: float | None
    interval: Interval
    at_threshold: ChosenThreshold  # of the fine-tuned model
    false_alarms: float | None


@dataclass(frozen=True)
class ErrorRow:
    """How often an error type occurs, by model, over all classes."""

    type: ErrorType
    meaning: str
    counts: dict[str, int]
    widths: dict[str, float]  # of bars, in percent


@dataclass(frozen=True)
class Plots:
    """The charts of the page."""

    forest: Element
    curves: dict[str, Element]  # precision over recall, by class
    reliability: Element


@dataclass(frozen=True)
class Strengths:
    """The strengths among which one was chosen."""

    curve: StrengthCurve
    merged: float
    chart: Element | None


def write_evaluation_page(
    path: Path,
    *,
    metrics: Metrics,
    test: Split,
    splits: Sequence[Split],
    errors: Mapping[str, Sequence[ErrorRecord]],
    strengths: tuple[StrengthCurve, float] | None = None,
) -> None:
    """Write the page of an evaluation.

    Args:
        path: of the HTML file.
        metrics: what was measured.
        test: the test split, some of whose images are read.
        splits: that label issues may be in.
        errors: of "base" and "tuned", their detections and misses on the test split.
        strengths: that were compared, and that of the fine-tuned model; None if it was set.
    """
    write_page(
        path,
        "evaluation_page.html.j2",
        tone=TONES[metrics.verdict.outcome],
        status=metrics.verdict.outcome.capitalize(),
        heading=metrics.verdict.sentence,
        m=metrics,
        models=MODELS,
        few_images=metrics.counts.few_images,
        cards=_cards(metrics),
        images=gallery(test, errors),
        reasons=REASONS,
        error_types=ERROR_TYPES,
        classes=_class_rows(test, metrics),
        error_rows=_error_rows(metrics),
        plots=_plots(metrics),
        strengths=strengths and _strengths(*strengths),
        crops=_crops(splits, metrics.label_issues),
        summary=SUMMARY,
    )


def _cards(metrics: Metrics) -> list[Card]:
    kind, base, tuned, difference = metrics.kind, metrics.base, metrics.tuned, metrics.difference
    cards = [
        Card(
            name=f"{kind} AP",
            base=base.average_precision(kind).AP,
            tuned=tuned.average_precision(kind).AP,
            interval=difference.average_precision[kind].mean,
            meaning="COCO's average precision: how well objects are detected and outlined, "
            "whatever the confidence threshold. Mean over classes and over IoU thresholds from "
            "0.50 to 0.95; 1 is perfect.",
        ),
        Card(
            name="cgF1",
            base=base.cgf1[kind].cgf1,
            tuned=tuned.cgf1[kind].cgf1,
            interval=difference.cgf1[kind].cgf1,
            meaning="The metric of the SAM 3 paper: are objects detected, and only where there "
            "are some? 1 is perfect; 0 is a model that detects every prompt everywhere (or a "
            "test split without negatives).",
        ),
        Card(
            name="false alarms",
            base=_mean(base.false_alarms.values()),
            tuned=_mean(tuned.false_alarms.values()),
            interval=difference.false_alarms.mean,
            meaning="Fraction of the images without a class in which it is detected anyway, with "
            f"a score of at least {metrics.confidence_threshold:g}. Mean over classes; lower is "
            "better.",
        ),
    ]
    if base.overlap and tuned.overlap and difference.overlap:
        cards.append(
            Card(
                name="mask IoU",
                base=base.overlap.iou.mean,
                tuned=tuned.overlap.iou.mean,
                interval=difference.overlap.iou.mean,
                meaning="IoU of all objects of a class taken together, above its confidence "
                "threshold. Mean over classes; for things without clear instances.",
            )
        )
    return cards


def _class_rows(test: Split, metrics: Metrics) -> list[ClassRow]:
    base, tuned = (m.average_precision(metrics.kind) for m in (metrics.base, metrics.tuned))
    difference = metrics.difference.average_precision[metrics.kind]
    objects = [a.category_id for a in test.objects]
    return [
        ClassRow(
            name=category.name,
            prompt=category.prompt,
            objects=objects.count(category.id),
            base=base.per_class[category.name],
            tuned=tuned.per_class[category.name],
            interval=difference.per_class[category.name],
            at_threshold=metrics.tuned.calibration.thresholds[category.name],
            false_alarms=metrics.tuned.false_alarms[category.name],
        )
        for category in test.categories
    ]


def _error_rows(metrics: Metrics) -> list[ErrorRow]:
    totals = {
        model: {kind: sum(row[kind] for row in found.errors.values()) for kind in ERROR_TYPES}
        for model, found in (("base", metrics.base), ("tuned", metrics.tuned))
    }
    most = max(max(counts.values()) for counts in totals.values()) or 1
    return [
        ErrorRow(
            type=kind,
            meaning=MEANINGS[kind],
            counts={model: totals[model][kind] for model in MODELS},
            widths={model: 100 * totals[model][kind] / most for model in MODELS},
        )
        for kind in ERROR_TYPES
    ]


def _plots(metrics: Metrics) -> Plots:
    difference = metrics.difference.average_precision[metrics.kind]
    base, tuned = metrics.base.calibration, metrics.tuned.calibration
    return Plots(
        forest=forest({"all classes": difference.mean, **difference.per_class}),
        curves={
            name: precision_recall({"base": base.curves[name], "tuned": curve}, name)
            for name, curve in tuned.curves.items()
            if curve
        },
        reliability=reliability({"base": base.reliability.bins, "tuned": tuned.reliability.bins}),
    )


def _strengths(curve: StrengthCurve, merged: float) -> Strengths:
    return Strengths(curve, merged, strength_chart(curve, merged))


def _crops(
    splits: Sequence[Split], label_issues: Sequence[LabelIssue]
) -> list[tuple[LabelIssue, str]]:
    """The first label issues, each with its surroundings as a data URI."""
    images = {(s.name, image.id): (s, image) for s in splits for image in s.images}
    crops = []
    for issue in label_issues[:MAX_CROPS]:
        split, image = images[issue.split, issue.image_id]
        crops.append((issue, data_uri(crop(split, image, issue.bbox_xywh))))
    return crops


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
