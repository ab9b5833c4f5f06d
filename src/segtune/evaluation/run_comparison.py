"""A run compared with a reference: data, the test images of both, and scores on them."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from segtune.core.errors import DatasetError
from segtune.dataset.image_pairs import Pair, pair_images
from segtune.evaluation.data_changes import (
    ComparedData,
    DataChanges,
    ObjectChanges,
    compare_data,
    is_encoded_anew,
)
from segtune.evaluation.metrics import MIN_IMAGES, Outcome
from segtune.evaluation.results_folder import ResultsFolder
from segtune.evaluation.run_scores import RunScores, ScoredRuns, outcome_of, score_runs


@dataclass(frozen=True)
class SharedTestSet:
    """What the test splits of two runs have in common; images by file name."""

    same: bool  # images, classes and ground truth
    differences: tuple[str, ...]  # in words
    only_reference: tuple[str, ...]
    only_run: tuple[str, ...]  # as the run calls them
    shared: tuple[str, ...]
    excluded: tuple[str, ...]  # of the shared ones, because one of the runs was trained on them
    replaced: int  # images of the same name with another size or content, which are not shared
    encoded_anew: int  # of the shared ones
    relabeled: int  # of the shared ones
    objects: ObjectChanges  # in them; the ground truth is the reference's
    classes: tuple[str, ...]  # in common, as the reference calls them


@dataclass(frozen=True)
class Comparison:
    """One run compared with the reference."""

    run: str  # its name
    outcome: Outcome | None  # None where no scores can be compared
    sentence: str
    test: SharedTestSet
    data: DataChanges
    scores: RunScores | None


@dataclass(frozen=True)
class ComparedRuns:
    """A comparison, and what it was made from."""

    comparison: Comparison
    scored: ScoredRuns | None
    anything_in_common: bool  # an image, in whatever split, or a class


def compare_runs(
    names: tuple[str, str], reference: ResultsFolder, run: ResultsFolder, *, resamples: int
) -> ComparedRuns:
    """Compare a run with a reference.

    Scores are compared on the images that are in the test splits of both, without those that one
    of the two was trained on; over the classes in common; and with the ground truth of the
    reference.

    Args:
        names: of the reference and of the run.
        reference: one run.
        run: the other.
        resamples: of the images, for the intervals.

    Raises:
        DatasetError: when the same file has another size in the other run.
    """
    images = pair_images(reference.data, run.data)
    _require_same_sizes(images.same, run)
    compared = compare_data(reference.data, run.data, images)
    shared = [pair for pair in compared.images.same if pair.is_in("test")]
    trained = reference.data.identities_of("train") | run.data.identities_of("train")
    pairs = tuple(p for p in shared if reference.data.identity(p.before.image) not in trained)
    test = _test_sets(names, reference, run, compared=compared, scored=pairs)
    scored = None
    if pairs and compared.common:
        scored = score_runs(reference, run, pairs, classes=compared.common, resamples=resamples)
    scores = scored.scores if scored else None
    outcome, sentence = _verdict(names, test, scores)
    if scores and not (reference.held_out and run.held_out):
        sentence += "; not held out, so the scores are optimistically biased"
    comparison = Comparison(
        run=names[1],
        outcome=outcome,
        sentence=sentence,
        test=test,
        data=compared.changes,
        scores=scores,
    )
    in_common = bool(compared.images.same or compared.common)
    return ComparedRuns(comparison, scored, anything_in_common=in_common)


def _require_same_sizes(pairs: Sequence[Pair], run: ResultsFolder) -> None:
    """Check this before masks are compared: of two sizes, that might never end."""
    for pair in pairs:
        old, new = pair.before.image, pair.after.image
        if (old.width, old.height) != (new.width, new.height):
            raise DatasetError(
                f"{new.width} x {new.height} pixels, but {old.width} x {old.height} in the "
                "reference, for the same file",
                file=run.path / "coco" / f"{pair.after.split}.json",
                record=f"image {new.id}",
                fix="Run segtune.convert again",
            )


def _test_sets(
    names: tuple[str, str],
    reference: ResultsFolder,
    run: ResultsFolder,
    *,
    compared: ComparedData,
    scored: Sequence[Pair],
) -> SharedTestSet:
    both = zip(compared.images.same, compared.labels, strict=True)
    shared = [(pair, changed) for pair, changed in both if pair.is_in("test")]
    used = {pair.before.image.id for pair in scored}
    old = {pair.before.image.id: pair.before.image.file_name for pair, _ in shared}
    only_reference = _others(reference, old)
    only_run = _others(run, {pair.after.image.id for pair, _ in shared})
    relabeled = sum(changed.any for _, changed in shared)
    counts = (len(only_reference), len(only_run))
    differences = _differences(names, counts, compared.changes, relabeled)
    return SharedTestSet(
        same=not differences,
        differences=differences,
        only_reference=only_reference,
        only_run=only_run,
        shared=tuple(old.values()),
        excluded=tuple(name for number, name in old.items() if number not in used),
        replaced=len(compared.changes.splits["test"].replaced),
        encoded_anew=sum(is_encoded_anew(reference.data, run.data, pair) for pair, _ in shared),
        relabeled=relabeled,
        objects=sum((changed for _, changed in shared), ObjectChanges()),
        classes=tuple(compared.common),
    )


def _others(run: ResultsFolder, shared: Container[int]) -> tuple[str, ...]:
    """The test images of a run besides those with these ids."""
    images = run.data.splits["test"].images
    return tuple(image.file_name for image in images if image.id not in shared)


def _differences(
    names: tuple[str, str], only: Sequence[int], data: DataChanges, relabeled: int
) -> tuple[str, ...]:
    """Why two test sets are not the same, in words."""
    found = [
        f"{_counted(count, 'test image')} only in {name}"
        for name, count in zip(names, only, strict=True)
        if count
    ]
    if relabeled:
        found.append(f"other labels in {_counted(relabeled, 'test image')}")
    classes = [
        *(f"{old} is now {new}" for old, new in data.classes_renamed.items()),
        *(f"{name} is new" for name in data.classes_added),
        *(f"{name} is gone" for name in data.classes_removed),
    ]
    if classes:
        found.append(f"other classes: {', '.join(classes)}")
    return tuple(found)


def _verdict(
    names: tuple[str, str], test: SharedTestSet, scores: RunScores | None
) -> tuple[Outcome | None, str]:
    reference, run = names
    if scores is None:
        return None, f"not compared: {_nothing(names, test)}; only data and settings are"
    score = scores.average_precision[scores.kind]
    found = score.interval
    where = _where(test, scores.images)
    if found.difference is None or found.low is None or found.high is None:
        return Outcome.UNDECIDED, f"undecided: nothing to measure {where}"
    outcome = outcome_of(found)
    summary = {
        Outcome.BETTER: f"{run} is better than {reference}",
        Outcome.WORSE: f"{run} is WORSE than {reference}",
        Outcome.UNDECIDED: f"undecided between {run} and {reference}",
    }[outcome]
    labels = (
        f"; by the labels of {reference}, {_counted(test.relabeled, 'image')} of which have others "
        f"in {run}"
        if test.relabeled
        else ""
    )
    few = f"; only {scores.images} images" if scores.images < MIN_IMAGES else ""
    return outcome, (
        f"{summary} {where}: {scores.kind} AP {score.run:.4f} vs. {score.reference:.4f} "
        f"({found.difference:+.4f}, 95% interval {found.low:+.4f} to {found.high:+.4f})"
        f"{labels}{few}"
    )


def _where(test: SharedTestSet, images: int) -> str:
    counted = _counted(images, "test image")
    if test.encoded_anew:
        counted += f", {test.encoded_anew} of them encoded anew,"
    if not test.same:
        return f"on the {counted} that both have (the test sets differ)"
    if test.excluded:
        return f"on the {counted} that neither was trained on"
    return f"on the same {counted}"


def _nothing(names: tuple[str, str], test: SharedTestSet) -> str:
    """Why there is nothing to score."""
    both = f"{names[0]} and {names[1]}"
    if not test.shared:
        alike = f" ({test.replaced} have the same name, but another size or content)"
        return f"the test splits of {both} have no image in common{alike if test.replaced else ''}"
    if len(test.excluded) == len(test.shared):
        return f"one of {both} was trained on every test image that they have in common"
    return f"{both} have no class in common"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
