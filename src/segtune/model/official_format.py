"""The official file format of SAM 3's weights: reading, writing and strict loading.

An official `sam3.pt` is `{"model": {"detector.<key>": tensor, "tracker.<key>": tensor}}`.
The stock loader keeps every key that contains "detector" and loads non-strictly, so it accepts
a plain state dict by loading nothing. Here a missing or unexpected key is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from segtune.core.atomic import atomic_path
from segtune.core.errors import WeightsError

PREFIX = "detector."
# The official file also serves the video model, whose tracker reads a neck of its own.
VIDEO_ONLY = "backbone.vision_backbone.sam2_convs."
MAX_LISTED_KEYS = 10


@dataclass(frozen=True)
class OfficialWeights:
    """The tensors of an official file, by key."""

    detector: dict[str, Tensor]  # keys of the image model
    rest: dict[str, Tensor]  # everything else, under its full key


def read_official(path: Path) -> OfficialWeights:
    """Read an official file without running any code in it.

    Raises:
        WeightsError: when the file is missing, damaged, or in another format.
    """
    values = _read_tensors(path)
    detector = {
        key.removeprefix(PREFIX): value
        for key, value in values.items()
        if key.startswith(PREFIX) and not key.startswith(PREFIX + VIDEO_ONLY)
    }
    if not detector:
        raise WeightsError(
            f"no key begins with {PREFIX!r}, so the file has no weights of the image model",
            file=path,
            fix='A sam3.pt is {"model": {"detector.<key>": tensor}}',
        )
    rest = {k: v for k, v in values.items() if k.removeprefix(PREFIX) not in detector}
    return OfficialWeights(detector, rest)


def write_official(path: Path, detector: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> None:
    """Write an official file, atomically; the stock loader finds every key in it."""
    tensors = {**rest, **{PREFIX + key: value for key, value in detector.items()}}
    with atomic_path(path) as temporary:
        torch.save(
            {"model": {key: value.contiguous() for key, value in tensors.items()}}, temporary
        )


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load every tensor of `state`, in place.

    Args:
        model: to load into.
        state: tensors by the model's own keys.
        path: the file they come from, for messages.

    Raises:
        WeightsError: listing missing and unexpected keys, and shapes that differ.
    """
    expected = model.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected.keys() & state.keys()
            if state[key].shape != expected[key].shape
        ),
    }
    found = [f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in problems.items() if keys]
    if found:
        raise WeightsError(
            "; ".join(found),
            file=path,
            fix="Check that `model` (tiny or full) and `weights` belong together",
        )
    model.load_state_dict(dict(state))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise WeightsError("no such file", file=path, fix="Check `weights`") from None
    except (RuntimeError, UnpicklingError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"cannot read tensors ({reason})", file=path, fix="Download the file again"
        ) from None
    values = values.get("model", values) if isinstance(values, dict) else {}
    return {key: value for key, value in values.items() if isinstance(value, Tensor)}


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - MAX_LISTED_KEYS} more" if len(keys) > MAX_LISTED_KEYS else ""
    return ", ".join(keys[:MAX_LISTED_KEYS]) + more
