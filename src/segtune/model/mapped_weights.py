"""Weights that are used where they are, in an official file, instead of being copied into memory.

A mapped page takes memory from when it is first used until the mapping is gone, so whatever
goes through all tensors does so in groups, each with a mapping of its own. A peak is then far
below the size of the file, where copies would take that much, and mapping once just as much.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from segtune.model.architecture import build_model
from segtune.model.official_format import (
    is_finite,
    official_again,
    read_official,
    refuse_broken,
    require_fitting,
)
from segtune.model.recognition import full_name, release_of, require_architecture
from segtune.model.sam3_package import Sam3Image

GROUP = 200_000_000  # bytes of tensors that are mapped together


def load_mapped(architecture: str, path: Path) -> Sam3Image:
    """A model on the CPU with the weights of an official file, mapped where they are in float32.

    Args:
        architecture: "tiny" or "full".
        path: of the file, which must stay as it is while the model is in use.

    Raises:
        WeightsError: as `segtune.model.weights.load_base_model`.
    """
    official = read_official(path)
    release = release_of(official, path)
    require_architecture(official, architecture, release, path)
    with _without_memory():
        model = build_model(architecture, neck_scales=release.neck_scales)
    require_fitting(model, official.detector, path, name=full_name(release, architecture))
    dtypes = {key: value.dtype for key, value in model.state_dict().items()}
    sizes = bytes_of(official.detector)
    forget_weights(model)
    del official
    # As the model computes with them: 1e300 is infinite in float32.
    broken = [
        key
        for keys in in_groups(sizes)
        for key, value in tensors_of(path, keys).items()
        if not is_finite(value.to(dtypes[key]))
    ]
    refuse_broken(broken, path)
    map_weights(model, path)
    return model


def map_weights(model: Sam3Image, path: Path) -> None:
    """Let a model, adapted or not, use the tensors of a file that fit it, in place.

    Called again, it gives back the memory of the pages that have been used.
    """
    detector = official_again(path).detector
    for key, value in model.state_dict(keep_vars=True).items():
        if key in detector:
            # Not `load_state_dict(assign=True)`: adapted layers and what they stand for have
            # their parameters in common.
            value.data = detector[key].to(value.dtype)


def unloaded_model(architecture: str) -> Sam3Image:
    """A model on the CPU to which `forget_weights` was done."""
    with _without_memory():
        model = build_model(architecture)
    forget_weights(model)
    return model


def forget_weights(model: Sam3Image) -> None:
    """Give back the memory of a model's weights; until others are loaded, each is NaN.

    A weight that is not loaded afterward thus shows in every output.

    Args:
        model: not adapted.
    """
    nothing = {
        key: torch.full((), torch.nan, dtype=value.dtype).expand(value.shape)
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(nothing, assign=True)


@contextmanager
def _without_memory() -> Iterator[None]:
    """Within, the parameters of new modules have shapes and no values.

    Random ones would be freed at once, but where they were in the heap, the process would keep it.
    """
    # Typed as if its result were not used.
    handle = register_module_parameter_registration_hook(_without_values)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def _without_values(
    module: nn.Module, name: str, parameter: nn.Parameter | None
) -> nn.Parameter | None:
    return None if parameter is None else nn.Parameter(parameter.to("meta"))


def tensors_of(path: Path, keys: Collection[str]) -> dict[str, Tensor]:
    """Some tensors of the image model, by its keys, in a mapping of their own."""
    detector = official_again(path).detector
    return {key: detector[key] for key in keys}


def bytes_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The size of each tensor."""
    return {key: value.numel() * value.element_size() for key, value in tensors.items()}


def in_groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """All keys, in order, so that together a group's tensors take `GROUP` bytes or are one."""
    group: list[str] = []
    for key, size in sizes.items():
        if group and sum(sizes[k] for k in group) + size > GROUP:
            yield group
            group = []
        group.append(key)
    if group:
        yield group
