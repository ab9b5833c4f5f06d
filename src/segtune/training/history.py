"""What a training run did, step by step: `history.jsonl` and TensorBoard."""

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
    """An append-only record that can be taken back to where a checkpoint stood.

    Args:
        path: of the JSON lines.
        tensorboard: folder for TensorBoard.
        lines: records to keep from an earlier process; what it wrote later is undone.
        step: of the last optimizer step that those records cover.
    """

    def __init__(self, path: Path, tensorboard: Path, lines: int, step: int) -> None:
        kept = path.read_text("utf-8").splitlines(keepends=True)[:lines] if lines else []
        path.write_text("".join(kept), "utf-8")
        self.lines = len(kept)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(tensorboard, purge_step=step + 1)

    def add(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Record numbers of one kind ("train", "valid") at an optimizer step.

        JSON has no NaN and no infinity; they are null there.
        """
        record = json.dumps({"kind": kind, "step": step, **_finite(values)}, allow_nan=False)
        self._file.write(record + "\n")
        self._file.flush()
        self.lines += 1
        for name, value in _flat(values):
            if isinstance(value, int | float) and math.isfinite(value):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Bring all lines to the disk, so that a checkpoint can count on them."""
        os.fsync(self._file.fileno())

    def image(self, name: str, step: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Show an image (height, width, 3) in TensorBoard."""
        self._board.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    def kept(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _finite(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: kept(value) for name, value in values.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
