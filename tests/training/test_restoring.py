"""A state that does not fit its run is refused in one line; a fitting one is restored."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.core.errors import TrainingError
from segtune.core.processes import process_group
from segtune.training import setup
from segtune.training.checkpoint import load_state
from segtune.training.ema import adapter_values
from segtune.training.restoring import restore_checked
from segtune.training.run import Run
from tests.interrupted import interrupted_run
from tests.ranks import run_ranks
from tests.train_runs import run_inputs, train_settings

State = dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return interrupted_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def state(run: Run) -> State:
    found, damaged = load_state(run.folder)
    assert found
    assert not damaged
    return copy.deepcopy(found)


def test_a_state_is_restored(run: Run, state: State) -> None:
    before = adapter_values(run.model)
    for parameter in before.values():
        parameter.add_(1)
    restore_checked(run, state, run.folder)
    assert all(torch.equal(v, state["adapter"][n]) for n, v in adapter_values(run.model).items())
    assert run.position.step == 1
    assert len(run.optimizer.state_dict()["state"]) == len(before)


def resume(arguments: list[str]) -> None:
    """Resume in two processes, of which the second sees no state, as on another node."""
    folder = Path(arguments[0])
    with process_group() as processes:
        if not processes.is_main:
            setup.load_state = lambda folder: (None, [])
        inputs = run_inputs(folder / "coco", folder / "out")
        settings = train_settings(ema_decay=0.9)
        run = setup.prepare_run(inputs, settings, processes=processes, folder=folder)
        state, _ = load_state(folder)
        assert state
        values = adapter_values(run.model)
        assert all(torch.equal(values[name], v) for name, v in state["adapter"].items())
        assert run.position.step == 1
        if run.history:
            run.history.close()


def test_all_processes_resume_from_the_state_that_the_first_one_sees(tmp_path: Path) -> None:
    interrupted_run(tmp_path)
    run_ranks(resume, [str(tmp_path)])


def first(values: dict[str, Any]) -> str:
    return next(iter(values))


def detection(**changes: Any) -> State:
    rle = {"size": [64, 64], "counts": "PP4"}  # one run of 4096 pixels
    record = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    return {**record, "segmentation": rle, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("position"), "position"),
        (lambda s: s["position"].update(step=-5), "step"),
        (lambda s: s["position"].update(epoch="1"), "epoch"),
        (lambda s: s["position"].update(step=True), "step"),
        (lambda s: s["position"].update(best_score=None), "best_score"),
        (lambda s: s["position"].update(surprise=1), "position"),
        (lambda s: s.update(history_lines="all"), "history_lines"),
        (lambda s: s["adapter"].pop(first(s["adapter"])), "adapter: other names"),
        # It would be broadcast to every row.
        (lambda s: s["adapter"].update({first(s["adapter"]): torch.ones(1)}), "adapter: "),
        (lambda s: s["average"][first(s["average"])].fill_(float("nan")), "average: "),
        (lambda s: s.update(average={}), "average: other names"),
        (lambda s: s.update(best_adapter=3), "best_adapter"),
        (lambda s: s["optimizer"]["param_groups"].pop(), "optimizer: other groups"),
        (lambda s: s["optimizer"]["param_groups"][0].update(betas=(2, 2)), "other groups"),
        (lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.ones(1)), "exp_avg"),
        (lambda s: s["optimizer"]["state"][0].pop("step"), "optimizer: other values"),
        (lambda s: s["optimizer"]["state"].update({10**6: s["optimizer"]["state"][0]}), "range"),
        (lambda s: s.update(random_states=[{"cpu": torch.zeros(3)}]), "RNG|ByteTensor"),
        (lambda s: s.update(base_detections=[detection(score=2)]), "the score 2 is not"),
        (lambda s: s.update(best_detections=[detection(image_id=99)]), "99 is not known"),
    ],
)
def test_a_state_that_does_not_fit_is_one_line(
    run: Run, state: State, change: Callable[[State], object], message: str
) -> None:
    change(state)
    with pytest.raises(TrainingError, match=message) as raised:
        restore_checked(run, state, run.folder)
    assert str(raised.value).startswith(f"{run.folder}: not the state of this training run (")
    assert "\n" not in str(raised.value)
