"""The official file format of SAM 3's weights: reading, writing and strict loading.

An official `sam3.pt` is `{"model": {"detector.<key>": tensor, "tracker.<key>": tensor}}`;
that of SAM 3.1 is only the inner table. A file is written as its base was read.
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
from segtune.model.torch_files import mapped_again, read_torch_file
from segtune.model.weight_files import RELEASES

PREFIX = "detector."
NECKS = "backbone.vision_backbone."
# The official file also serves the video model, whose tracker reads necks of its own.
VIDEO_ONLY = tuple(f"{PREFIX}{NECKS}{neck}." for r in RELEASES for neck in r.video_necks)
LAYOUT = '{"detector.<key>": tensor} or {"model": {"detector.<key>": tensor}}'
# A key that tells whether, and behind which prefix, a file has the image model.
TELLING = f"{NECKS}trunk.patch_embed.proj.weight"
TRANSFORMERS = ("detector_model.", "vision_encoder.")  # how that package's keys begin
PUBLISHED = " or ".join(f"{r.file} of {r.repository}" for r in RELEASES)
AS_PUBLISHED = f"Use {PUBLISHED} as published, or a file that segtune.merge wrote"
MAX_LISTED_KEYS = 10
# Tensors may share memory; written apart, they take at most this many times the file's size.
SHARED = 4
SMALL = 100_000_000  # bytes that a file may always ask for


@dataclass(frozen=True)
class OfficialWeights:
    """The tensors of an official file, by key."""

    detector: dict[str, Tensor]  # keys of the image model
    rest: dict[str, Tensor]  # everything else, under its full key
    nested: bool = True  # inside {"model": …}


def read_official(path: Path) -> OfficialWeights:
    """Read an official file without running any code in it.

    Raises:
        WeightsError: when the file is missing, damaged, or in another format.
    """
    fix = "Check `weights`, or download the file again"
    if path.suffix == ".safetensors":
        fix = AS_PUBLISHED
    return _official(read_torch_file(path, WeightsError, fix), path)


def official_again(path: Path) -> OfficialWeights:
    """What `read_official` has read before, mapped anew: none of it is in memory yet."""
    return _official(mapped_again(path), path)


def _official(table: Any, path: Path) -> OfficialWeights:
    nested = isinstance(table, dict) and isinstance(table.get("model"), dict)
    values = _tensors(table["model"] if nested else table, path)
    own = {k for k in values if k.startswith(PREFIX) and not k.startswith(VIDEO_ONLY)}
    if not own:
        raise _without_prefix(list(values), path)
    detector = {key.removeprefix(PREFIX): values[key] for key in values if key in own}
    rest = {key: value for key, value in values.items() if key not in own}
    return OfficialWeights(detector, rest, nested)


def write_official(
    path: Path, detector: Mapping[str, Tensor], rest: Mapping[str, Tensor], *, nested: bool = True
) -> None:
    """Write an official file, atomically; the stock loader finds every key in it.

    The same tensors always give the same bytes. The arguments are those of `OfficialWeights`.
    """
    tensors = {**rest, **{PREFIX + key: value for key, value in detector.items()}}
    plain = _without_sharing({key: tensors[key].detach() for key in sorted(tensors)})
    # Given a path, torch would write its name into the file.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save({"model": plain} if nested else plain, file)


def load_strictly(
    model: nn.Module, state: Mapping[str, Tensor], path: Path, *, name: str = "this model"
) -> None:
    """Load every tensor of `state`, in place.

    Args:
        model: to load into.
        state: tensors by the model's own keys.
        path: the file they come from, for messages.
        name: of the checkpoint that the file resembles most, for messages.

    Raises:
        WeightsError: listing missing and unexpected keys, shapes that differ, and tensors that
            are not finite or not of floating point where the model's are.
    """
    require_fitting(model, state, path, name=name)
    model.load_state_dict(dict(state))
    refuse_broken([k for k, value in model.state_dict().items() if not is_finite(value)], path)


def refuse_broken(keys: list[str], path: Path) -> None:
    """Refuse a file in which tensors, if any, have NaN or infinity."""
    _refuse({"with NaN or infinity": keys}, path, fix="Download the file again")


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor of any type has neither NaN nor infinity."""
    values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if not values.is_floating_point() or not values.numel():
        return True
    # NaN is both; this is 40 times as fast as comparing each value.
    return bool(torch.stack(values.aminmax()).isfinite().all())


def require_fitting(
    model: nn.Module, state: Mapping[str, Tensor], path: Path, *, name: str = "this model"
) -> None:
    """Check keys, shapes and kinds of numbers; arguments and errors as in `load_strictly`."""
    expected = model.state_dict()
    shared = sorted(expected.keys() & state.keys())
    reshaped = [key for key in shared if state[key].shape != expected[key].shape]
    retyped = [
        key for key in shared if _kind_of_number(state[key]) != _kind_of_number(expected[key])
    ]
    fitting = len(set(shared) - {*reshaped, *retyped})
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in reshaped
        ],
        "of another type": [
            f"{key} {state[key].dtype} instead of {expected[key].dtype}" for key in retyped
        ],
    }
    count = f"{fitting:,} of {len(expected):,}"
    found = f"resembles {name} ({count} tensors fit), "
    if 2 * fitting < len(expected):
        found = f"is not {name} (only {count} tensors fit), "
    _refuse(problems, path, found, fix=AS_PUBLISHED)


def _kind_of_number(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _refuse(problems: Mapping[str, list[str]], path: Path, found: str = "", *, fix: str) -> None:
    listings = [
        f"{len(keys)} {kind}: {listed(keys, MAX_LISTED_KEYS)}"
        for kind, keys in problems.items()
        if keys
    ]
    if listings:
        raise WeightsError(found + "; ".join(listings), file=path, fix=fix)


def _without_prefix(keys: list[str], path: Path) -> WeightsError:
    """What to say of a file that has nothing under the official names of the image model."""
    found, fix = f"its keys: {listed(keys, MAX_LISTED_KEYS) or 'none'}", AS_PUBLISHED
    prefixes = sorted(key.removesuffix(TELLING) for key in keys if key.endswith(TELLING))
    if prefixes:
        prefix = prefixes[0][:MAX_SHOWN]
        found = f"the image model's keys {f'begin with {prefix!r}' if prefix else 'have no prefix'}"
        fix = f"Save them as {LAYOUT}"
    elif any(key.startswith(TRANSFORMERS) for key in keys):
        found = "its keys are those of the transformers package"
    problem = f"no key begins with {PREFIX!r}, so stock SAM 3 would load nothing; {found}"
    return WeightsError(problem, file=path, fix=fix)


def _tensors(values: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of what an official file holds, which may share memory or repeat values."""
    if not isinstance(values, dict) or any(type(key) is not str for key in values):
        raise WeightsError("not a table of tensors by name", file=path, fix=AS_PUBLISHED)
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
            fix=AS_PUBLISHED,
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
