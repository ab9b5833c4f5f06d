"""The time of whole epochs of training, and of the validations between them."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.gpu_commands import demo_commands, run_command
from segtune import train
from segtune.training import loop

EPOCHS = 2
WORKERS = "1"


def epoch_table() -> Iterator[str]:
    """Train the tiny model on the demo, with a validation before the first and after each epoch."""
    spent = {"validation": list[float](), "training": list[float]()}
    with tempfile.TemporaryDirectory() as name:
        commands = demo_commands(Path(name), {"epochs": EPOCHS, "validate_every": 1})
        for title in ("convert", "validate"):
            run_command(commands[title]).check_returncode()
        with _timed("validate", spent["validation"]), _timed("_train_epoch", spent["training"]):
            train.main([*commands["train"][1:], "--workers", WORKERS])
    yield "| epoch of the demo | training s | validation s | fraction |"
    yield "|---|---|---|---|"
    # The first validation measures the base model.
    pairs = zip(spent["training"], spent["validation"][1:], strict=True)
    for number, (training, validation) in enumerate(pairs, start=1):
        fraction = validation / (training + validation)
        yield f"| {number} | {training:.1f} | {validation:.1f} | {fraction:.2f} |"


@contextmanager
def _timed(name: str, seconds: list[float]) -> Iterator[None]:
    """Within, every call of this function of the training loop adds its seconds."""
    function: Callable[..., Any] = getattr(loop, name)

    @wraps(function)
    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = function(*arguments, **options)
        seconds.append(time.perf_counter() - began)
        return result

    with patch.object(loop, name, timed):
        yield
