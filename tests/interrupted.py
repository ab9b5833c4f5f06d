"""A training run that was interrupted after one optimizer step, with its state on disk."""

from pathlib import Path

import torch

from segtune.core.processes import process_group
from segtune.training.ema import adapter_values
from segtune.training.run import Run, save
from segtune.training.setup import prepare_run
from tests.converted import write_converted
from tests.train_runs import run_inputs, train_settings


def interrupted_run(folder: Path) -> Run:
    """The run; its state is the only one in its folder."""
    inputs = run_inputs(write_converted(folder), folder / "out")
    settings = train_settings(ema_decay=0.9)
    with process_group() as processes:
        run = prepare_run(inputs, settings, processes=processes, folder=folder)
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    run.optimizer.step()
    run.position.step = 1
    run.best_adapter = adapter_values(run.model)
    save(run)
    assert run.history
    run.history.close()
    return run
