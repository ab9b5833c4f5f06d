"""How often a module runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def calls_of(module: torch.nn.Module) -> Iterator[list[int]]:
    """An item for each call, within."""
    calls: list[int] = []

    def count(*_: Any) -> None:
        calls.append(1)

    handle = module.register_forward_pre_hook(count)
    yield calls
    handle.remove()
