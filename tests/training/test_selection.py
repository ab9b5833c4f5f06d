"""The best epoch, by the score that the settings choose."""

from typing import Any, Literal

import pytest

from segtune.dataset.detections import Detections
from segtune.training.run import Position
from segtune.training.selection import ValidScores, note_score, valid_scores
from tests.scenes import OBJECTS, detection, split_of

# Per epoch; among those after the base model, AP is best at the first and cgF1 at the second.
SCORES = (
    {"box_ap": 0.9, "mask_ap": 0.1, "cgf1": 0.2},
    {"box_ap": 0.1, "mask_ap": 0.5, "cgf1": 0.3},
    {"box_ap": 0.2, "mask_ap": 0.4, "cgf1": 0.6},
)


@pytest.mark.parametrize(
    ("select_by", "with_masks", "best_epoch", "best_score", "base_score"),
    [("AP", True, 1, 0.5, 0.1), ("cgF1", True, 2, 0.6, 0.2), ("AP", False, 2, 0.2, 0.9)],
)
def test_the_best_epoch_has_the_best_score(
    select_by: Literal["AP", "cgF1"],
    with_masks: bool,
    best_epoch: int,
    best_score: float,
    base_score: float,
) -> None:
    position, best = Position(), []
    for epoch, values in enumerate(SCORES):
        position.epoch = epoch
        masks: dict[str, Any] = {} if with_masks else {"mask_ap": None}
        scores = ValidScores(**{**values, **masks}, ap_per_class={})
        if note_score(position, scores.score(select_by)):
            best.append(epoch)
    assert best[-1] == position.best_epoch == best_epoch
    assert position.best_score == best_score
    assert position.base_score == base_score
    assert position.validations_since_best == 2 - best_epoch


def test_of_equal_epochs_the_last_is_best_but_patience_counts_on() -> None:
    position = Position()
    selected = []
    for epoch in range(4):
        position.epoch = epoch
        selected.append(note_score(position, 0.5))
    assert selected == [False, True, True, True]
    assert position.best_epoch == 3
    assert position.validations_since_best == 2


def test_the_scores_of_perfect_and_of_no_predictions() -> None:
    split = split_of(OBJECTS)
    perfect = valid_scores(split, split, Detections(detection(*o) for o in OBJECTS))
    assert perfect.ap_per_class == pytest.approx({"cat": 1.0, "dog": 1.0})
    assert perfect.totals() == pytest.approx({"box_AP": 1, "mask_AP": 1, "cgF1": 1}, abs=1e-3)
    assert valid_scores(split, split, Detections()).to_record() == {
        "box_AP": 0.0,
        "mask_AP": 0.0,
        "cgF1": 0.0,
        "per_class": {"cat": 0.0, "dog": 0.0},
    }
