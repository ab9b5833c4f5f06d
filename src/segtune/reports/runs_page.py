"""The page of several runs: scores on the same images, images side by side, data, settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from PIL import Image as PilImage

from segtune.dataset.coco import Image, Split
from segtune.evaluation.metrics import MIN_IMAGES, Outcome
from segtune.evaluation.run_comparison import Comparison
from segtune.evaluation.run_scores import RunScores, Score
from segtune.evaluation.runs_file import Runs, ShownImage, ShownObject, ShownRun
from segtune.reports.drawing import (
    CORRECT,
    ERROR,
    FILL,
    GROUND_TRUTH,
    THUMBNAIL,
    Label,
    data_uri,
    draw_object,
    open_fitted,
    write_labels,
)
from segtune.reports.evaluation_charts import forest
from segtune.reports.page import write_page

TONES = {Outcome.BETTER: "good", Outcome.WORSE: "bad"}
MAX_NAMES = 20  # of images in a list
MAX_CHANGED = 20  # rows of images


@dataclass(frozen=True)
class Card:
    """A score of two runs, with what it means."""

    name: str
    score: Score
    meaning: str


@dataclass(frozen=True)
class Compared:
    """What the page shows of one comparison."""

    comparison: Comparison
    cards: list[Card]
    chart: Element | None
    few_images: bool


@dataclass(frozen=True)
class Panel:
    """An image as one run sees it, as a data URI."""

    title: str
    image: str
    tally: str


@dataclass(frozen=True)
class Figure:
    """An image side by side, first with the ground truth."""

    shown: ShownImage
    panels: list[Panel]


def write_runs_page(path: Path, runs: Runs) -> None:
    """Write the page of a comparison of runs.

    Args:
        path: of the HTML file.
        runs: what was compared; some of the test images are read.

    Raises:
        DatasetError: when an image cannot be read.
    """
    outcomes = {comparison.outcome for comparison in runs.comparisons}
    (outcome,) = outcomes if len(outcomes) == 1 else (None,)
    write_page(
        path,
        "runs_page.html.j2",
        tone="neutral" if outcome is None else TONES.get(outcome, "neutral"),
        status="Compared" if outcome is None else outcome.capitalize(),
        heading=runs.sentence,
        r=runs,
        reference=runs.runs[0].name,
        compared=[_compared(comparison, runs) for comparison in runs.comparisons],
        figures=[_figure(shown) for shown in runs.images],
        max_names=MAX_NAMES,
        max_changed=MAX_CHANGED,
    )


def _compared(comparison: Comparison, runs: Runs) -> Compared:
    scores = comparison.scores
    if scores is None:
        return Compared(comparison, [], None, few_images=False)
    rows = {"all classes": scores.average_precision[scores.kind].interval}
    rows |= {c.name: c.average_precision.interval for c in scores.classes}
    return Compared(
        comparison,
        _cards(scores, runs.confidence_threshold),
        forest(rows),
        few_images=scores.images < MIN_IMAGES,
    )


def _cards(scores: RunScores, threshold: float) -> list[Card]:
    precision = [
        Card(
            f"{kind} AP",
            score,
            "COCO's average precision, mean over classes and IoU thresholds; 1 is perfect.",
        )
        for kind, score in scores.average_precision.items()
    ]
    return [
        *sorted(precision, key=lambda card: not card.name.startswith(scores.kind)),
        Card(
            "cgF1",
            scores.cgf1,
            "The metric of the SAM 3 paper: are objects detected, and only where there are some? "
            "1 is perfect.",
        ),
        Card(
            "false alarms",
            scores.false_alarms,
            "Fraction of the images without a class in which it is detected anyway, with a score "
            f"of at least {threshold:g}. Mean over classes; lower is better.",
        ),
    ]


def _figure(shown: ShownImage) -> Figure:
    image = Image(id=0, file_name=shown.file_name, width=shown.width, height=shown.height)
    split = Split("test", Path(shown.root), (), (image,), {0: ()})
    canvas = open_fitted(split, image, THUMBNAIL)
    truth = _drawn(canvas, image, shown.ground_truth, labeled=True)
    count = len(shown.ground_truth)
    panels = [Panel("ground truth", data_uri(truth), f"{count} object{'' if count == 1 else 's'}")]
    for run in shown.runs:
        drawn = _drawn(canvas, image, run.detections, labeled=False)
        panels.append(Panel(run.name, data_uri(drawn), _tally(run)))
    return Figure(shown, panels)


def _tally(run: ShownRun) -> str:
    correct = sum(d.correct for d in run.detections)
    counts = {"correct": correct, "wrong": len(run.detections) - correct, "missed": run.missed}
    return ", ".join(f"{n} {kind}" for kind, n in counts.items() if n) or "no detections"


def _drawn(
    canvas: PilImage.Image, image: Image, objects: Sequence[ShownObject], *, labeled: bool
) -> PilImage.Image:
    """The image with objects, the first of which is on top."""
    drawn = canvas.copy()
    for o in reversed(objects):
        color = GROUND_TRUTH if labeled else CORRECT if o.correct else ERROR
        draw_object(drawn, image, o.rle, o.bbox_xywh, color=color, fill=FILL)
    labels = [Label(o.bbox_xywh, _text(o)) for o in objects]
    write_labels(drawn, image, labels)
    return drawn


def _text(o: ShownObject) -> str:
    return o.name if o.score is None else f"{'' if o.correct else 'x '}{o.name} {o.score:.2f}"
