"""The official file format of SAM 3's weights: reading, writing and strict loading.

An official `sam3.pt` is `{"model": {"detector.<key>": tensor, "tracker.<key>": tensor}}`.
The stock loader keeps every key that contains "detector" and loads non-strictly, so it accepts
a plain state dict by loading nothing. Here a missing or unexpected key is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segtune.core.atomic import atomic_path
from segtune.core.errors import MAX_SHOWN, WeightsError, listed, shown
from segtune.model.torch_files import read_torch_file

PREFIX = "detector."
# The official file also serves the video model, whose tracker reads a neck of its own.
VIDEO_ONLY = "backbone.vision_backbone.sam2_convs."
LAYOUT = 'A sam3.pt is {"model": {"detector.<key>": tensor}}'
MAX_LISTED_KEYS = 10
# Tensors may share memory; written apart, they take at most this many times the file's size.
SHARED = 4
SMALL = 100_000_000  # bytes that a file may always ask for


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
    fix = "Check `weights`, or download the file again"
    values = _tensors(read_torch_file(path, WeightsError, fix), path)
    detector = {
        key.removeprefix(PREFIX): value
        for key, value in values.items()
        if key.startswith(PREFIX) and not key.startswith(PREFIX + VIDEO_ONLY)
    }
    if not detector:
        raise WeightsError(
            f"no key begins with {PREFIX!r}, so the file has no weights of the image model",
            file=path,
            fix=LAYOUT,
        )
    own = {PREFIX + key for key in detector}
    rest = {key: value for key, value in values.items() if key not in own}
    return OfficialWeights(detector, rest)


def write_official(path: Path, detector: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> None:
    """Write an official file, atomically; the stock loader finds every key in it.

    The same tensors always give the same bytes.
    """
    tensors = {**rest, **{PREFIX + key: value for key, value in detector.items()}}
    plain = _without_sharing({key: tensors[key].detach() for key in sorted(tensors)})
    # Given a path, torch would write its name into the file.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save({"model": plain}, file)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load every tensor of `state`, in place.

    Args:
        model: to load into.
        state: tensors by the model's own keys.
        path: the file they come from, for messages.

    Raises:
        WeightsError: listing missing and unexpected keys, shapes that differ, and tensors that
            are not finite or not of floating point where the model's are.
    """
    expected = model.state_dict()
    shared = sorted(expected.keys() & state.keys())
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in shared
            if state[key].shape != expected[key].shape
        ],
        "of another type": [
            f"{key} {state[key].dtype} instead of {expected[key].dtype}"
            for key in shared
            if _kind_of_number(state[key]) != _kind_of_number(expected[key])
        ],
    }
    _refuse(problems, path, fix="Check that `model` (tiny or full) and `weights` belong together")
    model.load_state_dict(dict(state))
    broken = [key for key, value in model.state_dict().items() if not is_finite(value)]
    _refuse({"with NaN or infinity": broken}, path, fix="Download the file again")


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor of any type has neither NaN nor infinity."""
    values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if not values.is_floating_point() or not values.numel():
        return True
    # NaN is both; this is 40 times as fast as comparing each value.
    return bool(torch.stack(values.aminmax()).isfinite().all())


def _kind_of_number(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _refuse(problems: Mapping[str, list[str]], path: Path, *, fix: str) -> None:
    found = [
        f"{len(keys)} {kind}: {listed(keys, MAX_LISTED_KEYS)}"
        for kind, keys in problems.items()
        if keys
    ]
    if found:
        raise WeightsError("; ".join(found), file=path, fix=fix)


def _tensors(values: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of what an official file holds, which may share memory or repeat values."""
    values = values.get("model", values) if isinstance(values, dict) else {}
    if not isinstance(values, dict) or any(type(key) is not str for key in values):
        raise WeightsError("not a table of tensors by name", file=path, fix=LAYOUT)
    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    sizes = {key: value.numel() * value.element_size() for key, value in tensors.items()}
    # A file of a few bytes can give its tensors any shapes.
    total, size = sum(sizes.values()), path.stat().st_size
    if total > max(SHARED * size, SMALL):
        key = max(sizes, key=lambda key: sizes[key])
        shape = shown(tuple(tensors[key].shape))
        raise WeightsError(
            f"has the shape {shape}; all tensors take {total:.2g} bytes, and the file has {size}",
            file=path,
            record=key[:MAX_SHOWN],
            fix=LAYOUT,
        )
    return tensors


def _without_sharing(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, each with memory of its own: torch.save writes what is shared once."""
    plain: dict[str, Tensor] = {}
    used: set[int] = set()
    for key, value in tensors.items():
        alone = value.contiguous()
        if alone.untyped_storage().nbytes() != alone.nbytes or alone.data_ptr() in used:
            alone = alone.clone()
        used |= {alone.data_ptr()} if alone.numel() else set()
        plain[key] = alone
    return plain
