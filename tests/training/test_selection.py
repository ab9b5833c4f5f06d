"""Which adapters are kept."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from segtune.core.config import TrainSettings
from segtune.training import selection
from segtune.training.run import Position
from segtune.training.selection import keep_best, valid_scores
from tests.evaluation.test_average_precision import OBJECTS, detection, split_of

# Per epoch: AP is best after the first, cgF1 after the second.
SCORES = [
    {"box_AP": 0.9, "mask_AP": 0.1, "cgF1": 0.2},
    {"box_AP": 0.1, "mask_AP": 0.5, "cgF1": 0.3},
    {"box_AP": 0.2, "mask_AP": 0.4, "cgF1": 0.6},
]


@pytest.mark.parametrize(
    ("select_by", "with_masks", "epoch", "score", "base"),
    [("AP", True, 1, 0.5, 0.1), ("cgF1", True, 2, 0.6, 0.2), ("AP", False, 2, 0.2, 0.9)],
)
def test_the_best_by_the_score_that_was_asked_for_is_kept(
    select_by: Any,
    with_masks: bool,
    epoch: int,
    score: float,
    base: float,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
) -> None:
    run: Any = SimpleNamespace(
        settings=TrainSettings(select_by=select_by),
        position=Position(),
        history=None,
        model=None,
        average=None,
    )
    monkeypatch.setattr(selection, "averaged", lambda run: torch.no_grad())
    monkeypatch.setattr(selection, "adapter_values", lambda model: run.position.epoch)
    for number, scores in enumerate(SCORES):
        run.position.epoch = number
        kept = scores if with_masks else {"box_AP": scores["box_AP"], "cgF1": 0.0}
        keep_best(run, kept, [], tmp_path)
    assert run.best_adapter == run.position.best_epoch == epoch
    assert run.position.best_score == score
    assert run.position.base_score == base
    assert run.position.validations_since_best == 2 - epoch


def test_the_scores_of_perfect_and_of_no_predictions() -> None:
    split = split_of(OBJECTS)
    perfect = valid_scores(split, [detection(*o) for o in OBJECTS])
    assert perfect.pop("per_class") == pytest.approx({"cat": 1.0, "dog": 1.0})
    assert perfect == pytest.approx({"box_AP": 1, "mask_AP": 1, "cgF1": 1}, abs=1e-3)
    nothing = valid_scores(split, [])
    assert nothing.pop("per_class") == {"cat": 0.0, "dog": 0.0}
    assert nothing == {"box_AP": 0.0, "mask_AP": 0.0, "cgF1": 0.0}
