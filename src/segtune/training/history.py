"""The log of a training run, step by step: `history.jsonl` and TensorBoard."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.tensorboard import SummaryWriter


class History:
    """An append-only log that can be rewound to a checkpoint.

    Args:
        path: of the JSON lines.
        tensorboard: folder for TensorBoard.
        lines: how many to retain from an earlier process; the rest is discarded.
        step: the last optimizer step that those lines cover.
    """

    def __init__(self, path: Path, tensorboard: Path, *, lines: int, step: int) -> None:
        retained = path.read_text("utf-8").splitlines(keepends=True)[:lines] if lines else []
        path.write_text("".join(retained), "utf-8")
        self.lines = len(retained)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(tensorboard, purge_step=step + 1)

    def add(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log values of one kind ("train" or "valid") at an optimizer step.

        NaN and infinity, which JSON does not have, become null.
        """
        record = json.dumps({"kind": kind, "step": step, **_finite(values)}, allow_nan=False)
        self._file.write(record + "\n")
        self._file.flush()
        self.lines += 1
        for name, value in _flat(values):
            if isinstance(value, int | float) and math.isfinite(value):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Flush all lines to the disk, so that a checkpoint can rely on them."""
        os.fsync(self._file.fileno())

    def image(self, name: str, step: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Add an image (height, width, 3) to TensorBoard."""
        self._board.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _finite(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: finite(value) for name, value in values.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
