"""Two runs on the test images that both have, with one ground truth and paired intervals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from segtune.dataset.coco import Split
from segtune.dataset.detections import Detections
from segtune.dataset.image_pairs import Pair
from segtune.evaluation.assessment import ModelEvaluation, compare, evaluate_model, main_kind
from segtune.evaluation.average_precision import Kind
from segtune.evaluation.bootstrap import Interval
from segtune.evaluation.error_types import ErrorRecord, classify_errors
from segtune.evaluation.metrics import ClassIntervals, Differences, Outcome
from segtune.evaluation.results_folder import ResultsFolder

MODELS = ("reference", "run")


@dataclass(frozen=True)
class Score:
    """A score of both runs, and run minus reference with its 95% interval."""

    reference: float | None
    run: float | None
    interval: Interval


@dataclass(frozen=True)
class ClassScore:
    """What changed for one class."""

    name: str  # as the reference calls it
    objects: int
    average_precision: Score
    found: int  # objects that only the run detects, at its confidence threshold
    lost: int  # objects that only the reference detects

    @property
    def outcome(self) -> Outcome:
        """Whether the run is better at this class."""
        return outcome_of(self.average_precision.interval)


@dataclass(frozen=True)
class ImageChange:
    """An image whose detections at the runs' confidence thresholds differ in quality."""

    file_name: str  # in the reference
    image_id: int  # in the reference
    found: int  # objects that only the run detects
    lost: int
    wrong_reference: int  # detections that match no object
    wrong_run: int
    f1_reference: float
    f1_run: float

    @property
    def gain(self) -> float:
        """Of F1."""
        return self.f1_run - self.f1_reference


@dataclass(frozen=True)
class RunScores:
    """Two runs on the same images."""

    kind: Kind  # what is compared: masks where there are some
    images: int
    objects: int
    average_precision: dict[Kind, Score]
    cgf1: Score
    false_alarms: Score
    classes: tuple[ClassScore, ...]
    changed_images: tuple[ImageChange, ...]  # the greatest change of F1 first


@dataclass(frozen=True)
class ScoredRuns:
    """The scores, and the detections and misses behind them, by image."""

    truth: Split
    scores: RunScores
    errors: Mapping[str, Mapping[int, Sequence[ErrorRecord]]]  # of "reference" and "run"


def outcome_of(interval: Interval) -> Outcome:
    """Better or worse where zero is outside of an interval, else undecided."""
    if interval.low is not None and interval.low > 0:
        return Outcome.BETTER
    if interval.high is not None and interval.high < 0:
        return Outcome.WORSE
    return Outcome.UNDECIDED


def score_runs(
    reference: ResultsFolder,
    run: ResultsFolder,
    pairs: Sequence[Pair],
    *,
    classes: Mapping[str, str],
    resamples: int,
) -> ScoredRuns:
    """Score two runs on the same images, with the ground truth of the reference.

    Args:
        reference: one run.
        run: the other.
        pairs: images of the test splits of both, at least one.
        classes: names of the classes in common, in the reference -> in the run; at least one.
        resamples: of the images, for the intervals.
    """
    truth = _truth(reference, pairs, classes)
    test = run.data.splits["test"]
    numbers = {c.name: c.id for c in test.categories}
    detections = {
        "reference": _remapped(
            reference.detections,
            images={i.id: i.id for i in truth.images},
            categories={c.id: c.id for c in truth.categories},
        ),
        "run": _remapped(
            run.detections,
            images={pair.after.image.id: pair.before.image.id for pair in pairs},
            categories={numbers[classes[c.name]]: c.id for c in truth.categories},
        ),
    }
    thresholds = {
        "reference": {c.id: reference.thresholds[c.name] for c in truth.categories},
        "run": {c.id: run.thresholds[classes[c.name]] for c in truth.categories},
    }
    kind = main_kind(truth)
    errors = {
        model: classify_errors(truth, found, thresholds[model], with_masks=kind == "mask")
        for model, found in detections.items()
    }
    evaluated = [
        evaluate_model(
            truth, found, valid=None, confidence_threshold=reference.confidence_threshold
        )
        for found in detections.values()
    ]
    difference = compare(truth, *evaluated, resamples=resamples)
    scores = _scores(truth, evaluated, difference, errors)
    return ScoredRuns(truth, scores, {m: _by_image(truth, found) for m, found in errors.items()})


def _truth(reference: ResultsFolder, pairs: Sequence[Pair], classes: Mapping[str, str]) -> Split:
    """The reference's test split, of these images and classes."""
    test = reference.data.splits["test"]
    wanted = {pair.before.image.id for pair in pairs}
    categories = tuple(c for c in test.categories if c.name in classes)
    numbers = {c.id for c in categories}
    images = tuple(image for image in test.images if image.id in wanted)
    return replace(
        test,
        categories=categories,
        images=images,
        annotations={
            i.id: tuple(a for a in test.annotations[i.id] if a.category_id in numbers)
            for i in images
        },
    )


def _remapped(
    detections: Detections, *, images: Mapping[int, int], categories: Mapping[int, int]
) -> Detections:
    """The detections of some images and classes, with other ids."""
    return Detections(
        replace(d, image_id=images[d.image_id], category_id=categories[d.category_id])
        for d in detections
        if d.image_id in images and d.category_id in categories
    )


def _scores(
    truth: Split,
    evaluated: Sequence[ModelEvaluation],
    difference: Differences,
    errors: Mapping[str, Sequence[ErrorRecord]],
) -> RunScores:
    kind = main_kind(truth)
    reference, run = (found.metrics for found in evaluated)
    return RunScores(
        kind=kind,
        images=len(truth.images),
        objects=len(truth.objects),
        average_precision={
            name: Score(
                reference.average_precision(name).AP, run.average_precision(name).AP, found.mean
            )
            for name, found in difference.average_precision.items()
        },
        cgf1=Score(reference.cgf1[kind].cgf1, run.cgf1[kind].cgf1, difference.cgf1[kind].cgf1),
        false_alarms=Score(
            _mean(reference.false_alarms), _mean(run.false_alarms), difference.false_alarms.mean
        ),
        classes=_class_scores(truth, evaluated, difference.average_precision[kind], errors),
        changed_images=_changed_images(truth, errors),
    )


def _class_scores(
    truth: Split,
    evaluated: Sequence[ModelEvaluation],
    difference: ClassIntervals,
    errors: Mapping[str, Sequence[ErrorRecord]],
) -> tuple[ClassScore, ...]:
    reference, run = (e.metrics.average_precision(main_kind(truth)).per_class for e in evaluated)
    before, after = (_detected(errors[model]) for model in MODELS)
    objects = Counter(a.category_id for a in truth.objects)
    found, lost = (
        Counter(e.category_id for e in changed)
        for changed in (_new(after, before), _new(before, after))
    )
    return tuple(
        ClassScore(
            name=c.name,
            objects=objects[c.id],
            average_precision=Score(reference[c.name], run[c.name], difference.per_class[c.name]),
            found=found[c.id],
            lost=lost[c.id],
        )
        for c in truth.categories
    )


def _changed_images(
    truth: Split, errors: Mapping[str, Sequence[ErrorRecord]]
) -> tuple[ImageChange, ...]:
    by_image = {model: _by_image(truth, errors[model]) for model in MODELS}
    changes = []
    for image in truth.images:
        before, after = (by_image[model][image.id] for model in MODELS)
        old, new = _detected(before), _detected(after)
        change = ImageChange(
            file_name=image.file_name,
            image_id=image.id,
            found=len(_new(new, old)),
            lost=len(_new(old, new)),
            wrong_reference=_wrong(before),
            wrong_run=_wrong(after),
            f1_reference=_f1(before),
            f1_run=_f1(after),
        )
        if change.gain or change.found or change.lost:
            changes.append(change)
    return tuple(sorted(changes, key=lambda c: (-abs(c.gain), -c.found - c.lost, c.file_name)))


def _by_image(truth: Split, errors: Sequence[ErrorRecord]) -> dict[int, list[ErrorRecord]]:
    found: dict[int, list[ErrorRecord]] = {image.id: [] for image in truth.images}
    for e in errors:
        found[e.image_id].append(e)
    return found


def _detected(errors: Sequence[ErrorRecord]) -> dict[int, ErrorRecord]:
    """Annotation id -> the detection that matches it."""
    return {e.annotation.id: e for e in errors if e.type == "correct" and e.annotation}


def _new(
    detected: Mapping[int, ErrorRecord], other: Mapping[int, ErrorRecord]
) -> list[ErrorRecord]:
    return [e for number, e in detected.items() if number not in other]


def _wrong(errors: Sequence[ErrorRecord]) -> int:
    return sum(e.type not in ("correct", "missed") for e in errors)


def _f1(errors: Sequence[ErrorRecord]) -> float:
    """F1 of one image; 1 where there are neither objects nor detections.

    An object that a wrong detection explains counts only as that.
    """
    correct = sum(e.type == "correct" for e in errors)
    total = correct + len(errors)
    return 2 * correct / total if total else 1.0


def _mean(rates: Mapping[str, float | None]) -> float | None:
    known = [rate for rate in rates.values() if rate is not None]
    return sum(known) / len(known) if known else None
