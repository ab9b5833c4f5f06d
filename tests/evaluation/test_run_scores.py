"""Scoring two runs on the same images."""

from collections.abc import Sequence
from pathlib import Path

from segtune.dataset.detections import Detection, Detections
from segtune.dataset.image_pairs import Dataset, Pair, Place
from segtune.evaluation.results_folder import ResultsFolder
from segtune.evaluation.run_scores import RunScores, score_runs
from tests.scenes import detection, split_of

LEFT, RIGHT, FAR = (0, 0, 20, 20), (40, 0, 20, 20), (70, 70, 20, 20)
TRUTH = split_of([(1, 1, LEFT), (1, 1, RIGHT), (2, 2, LEFT)], images=3)


def folder(detections: Sequence[Detection]) -> ResultsFolder:
    return ResultsFolder(
        path=Path("results"),
        data=Dataset({"test": TRUTH}, {}),
        detections=Detections(detections),
        thresholds={c.name: 0.5 for c in TRUTH.categories},
        confidence_threshold=0.5,
        held_out=True,
        version="",
        settings={},
        code={},
    )


def score(before: Sequence[Detection], after: Sequence[Detection]) -> RunScores:
    pairs = [Pair(Place("test", image), Place("test", image)) for image in TRUTH.images]
    names = {c.name: c.name for c in TRUTH.categories}
    reference = folder(before)
    return score_runs(reference, folder(after), pairs, classes=names, resamples=10).scores


def test_an_image_that_changed_is_listed_though_its_f1_is_the_same() -> None:
    scores = score([detection(1, 1, LEFT)], [detection(1, 1, RIGHT)])
    (change,) = scores.changed_images
    assert (change.image_id, change.found, change.lost, change.gain) == (1, 1, 1, 0)
    assert [(c.name, c.found, c.lost) for c in scores.classes] == [("cat", 1, 1), ("dog", 0, 0)]


def test_images_are_ordered_by_what_changed() -> None:
    before = [detection(1, 1, LEFT)]
    after = [*before, detection(1, 1, RIGHT), detection(2, 2, LEFT), detection(3, 1, FAR)]
    changes = score(before, after).changed_images
    assert [(c.image_id, c.found, c.wrong_run) for c in changes] == [
        (2, 1, 0),
        (3, 0, 1),
        (1, 1, 0),
    ]
    assert [round(c.gain, 3) for c in changes] == [1, -1, 0.333]
