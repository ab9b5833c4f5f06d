"""Models of full size without memory for their weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class OnMeta(TorchFunctionMode):
    """Allocate on meta instead of cuda, except `linspace`, whose values the package reads."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.linspace:
            kwargs["device"] = "cpu"
        elif str(kwargs.get("device")) == "cuda":
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Within, tensors have shapes and no values."""
    with torch.device("meta"), OnMeta():
        yield
