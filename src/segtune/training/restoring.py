"""An interrupted run restored from its state, once it is certain that the state fits the run."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtune.core.errors import SegtuneError, TrainingError
from segtune.core.foreign import reason
from segtune.dataset.detections import checked_detections
from segtune.training.ema import adapter_values
from segtune.training.run import Position, Run, restore

MAX_COUNT = 2**53
VARIES = {"lr"}  # in the optimizer's groups, from step to step


def restore_checked(run: Run, state: Mapping[str, Any], folder: Path) -> None:
    """Put a run where it was when `state` was saved.

    Raises:
        TrainingError: when the state is not one of this run.
    """
    try:
        _require_position(state["position"], state["history_lines"])
        for name in ("adapter", "average", "best_adapter"):
            _require_adapter(run, name, state[name])
        _require_optimizer(run, state["optimizer"])
        _require_scaler(run, state["scaler"])
        for name in ("base_detections", "best_detections"):
            checked_detections(folder, state[name], run.valid)
        restore(run, state)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        # Whoever wrote this file, it was not segtune: everything in it may be wrong.
        problem = error.problem if isinstance(error, SegtuneError) else reason(error)
        raise TrainingError(
            f"not the state of this training run ({problem[:200]})",
            file=folder,
            fix="Remove this folder to start over",
        ) from None


def _require_position(values: Any, history_lines: Any) -> None:
    kinds = {field.name: type(field.default) for field in fields(Position)}
    if not isinstance(values, dict) or values.keys() != kinds.keys():
        raise ValueError("position")
    counts = {name: values[name] for name, kind in kinds.items() if kind is int}
    for name, count in {**counts, "history_lines": history_lines}.items():
        if type(count) is not int or not -1 <= count < MAX_COUNT:
            raise ValueError(name)
    for name in values.keys() - counts.keys():
        if type(values[name]) not in (int, float):
            raise ValueError(name)


def _require_adapter(run: Run, part: str, values: Any) -> None:
    expected = adapter_values(run.model)
    if (part == "average" and not run.average) or (part == "best_adapter" and not values):
        expected = {}
    if not isinstance(values, dict) or values.keys() != expected.keys():
        raise ValueError(f"{part}: other names")
    for name, value in values.items():
        _require_like(f"{part}: {name}", value, expected[name].shape)


def _require_optimizer(run: Run, values: Any) -> None:
    own = run.optimizer.state_dict()["param_groups"]
    groups = values["param_groups"]
    if [_constant(group) for group in groups] != [_constant(group) for group in own]:
        raise ValueError("optimizer: other groups")
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    for number, state in values["state"].items():
        if set(state) != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError("optimizer: other values")
        _require_like("optimizer: step", state["step"], torch.Size([]))
        for name in ("exp_avg", "exp_avg_sq"):
            _require_like(f"optimizer: {name}", state[name], parameters[number].shape)


def _require_scaler(run: Run, values: Any) -> None:
    own = run.scaler.state_dict()
    if not isinstance(values, dict) or (values and own and values.keys() != own.keys()):
        raise ValueError("scaler")
    if not values or not own:  # saved or resumed where training is not in float16
        return
    scale, steps = values["scale"], values["_growth_tracker"]
    if {**values, "scale": own["scale"], "_growth_tracker": own["_growth_tracker"]} != own:
        raise ValueError("scaler: other factors")
    if type(scale) is not float or not 1 <= scale < math.inf:
        raise ValueError("scaler: scale")
    if type(steps) is not int or not 0 <= steps < values["growth_interval"]:
        raise ValueError("scaler: steps")


def _constant(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in VARIES}


def _require_like(name: str, value: Any, shape: torch.Size) -> None:
    fits = isinstance(value, Tensor) and value.shape == shape and value.is_floating_point()
    if not fits or not value.isfinite().all():
        raise ValueError(name)
