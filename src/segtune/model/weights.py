"""Model weights in the official file format: reading, strict loading, writing.

An official `sam3.pt` is `{"model": {"detector.<key>": tensor, "tracker.<key>": tensor}}`.
The stock loader keeps what contains "detector", loads it non-strictly and so accepts a
plain state dict by loading nothing. Here a missing or unexpected key is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
)
from safetensors.torch import load_file
from torch import Tensor

from segtune.core.atomic import atomic_path
from segtune.core.errors import WeightsError
from segtune.model.architecture import build_model
from segtune.model.sam3_package import Sam3Image
from segtune.model.weight_files import HUB_MODEL, TINY_WEIGHTS, weights_file

HUB_FILE = "sam3.pt"
PREFIX = "detector."
# The official file serves the video model too, whose tracker reads a neck of its own.
VIDEO_ONLY = "backbone.vision_backbone.sam2_convs."
MAX_LISTED_KEYS = 10


@dataclass(frozen=True)
class OfficialWeights:
    """The tensors of an official file, by key."""

    detector: dict[str, Tensor]  # keys of the image model
    rest: dict[str, Tensor]  # everything else, under its full key


def load_base_model(size: str, weights: str) -> Sam3Image:
    """The base model on the CPU.

    Args:
        size: "tiny" or "full".
        weights: "default", "facebook/sam3" (the hub, with the user's own login), the path
            of an official file, or "random:SEED". The default is the hub for `full` and
            the weights that segtune ships for `tiny`.

    Raises:
        WeightsError: when the weights cannot be had or do not fit.
    """
    if weights.startswith("random:"):
        return build_model(size, seed=_seed(weights))
    path = official_file(size, weights)
    if path is None:
        return _shipped_model()
    official = read_official(path)
    model = build_model(size)
    load_strictly(model, official.detector, path)
    return model


def official_file(size: str, weights: str) -> Path | None:
    """The official file behind a `weights` setting, fetched if need be; None without one."""
    if weights == HUB_MODEL or (size, weights) == ("full", "default"):
        return download()
    path = weights_file(size, weights)
    return None if path == TINY_WEIGHTS else path


def read_official(path: Path) -> OfficialWeights:
    """Read an official file without running any code in it.

    Raises:
        WeightsError: when the file is missing, damaged, or of another format.
    """
    values = _read_tensors(path)
    detector = {
        key.removeprefix(PREFIX): value
        for key, value in values.items()
        if key.startswith(PREFIX) and not key.startswith(PREFIX + VIDEO_ONLY)
    }
    if not detector:
        raise WeightsError(
            f"no key begins with {PREFIX!r}, so no part of the image model is in it",
            file=path,
            fix='A sam3.pt is {"model": {"detector.<key>": tensor}}',
        )
    rest = {k: v for k, v in values.items() if k.removeprefix(PREFIX) not in detector}
    return OfficialWeights(detector, rest)


def load_strictly(model: Sam3Image, state: Mapping[str, Tensor], path: Path) -> None:
    """Load every tensor of `state`, in place.

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


def write_official(path: Path, detector: Mapping[str, Tensor], rest: Mapping[str, Tensor]) -> None:
    """Write an official file, atomically; the stock loader reads it whole."""
    tensors = {**rest, **{PREFIX + key: value for key, value in detector.items()}}
    with atomic_path(path) as temporary:
        torch.save(
            {"model": {key: value.contiguous() for key, value in tensors.items()}}, temporary
        )


def download() -> Path:
    """SAM 3's weights from the hub, or from its local cache.

    Raises:
        WeightsError: saying what is missing: a login, the granted access, the network.
    """
    try:
        return Path(hf_hub_download(HUB_MODEL, HUB_FILE))
    except GatedRepoError:
        problem = "access denied (403): the weights are gated"
        fix = f"Ask for access on the page of {HUB_MODEL}, then log in with `hf auth login`"
    except LocalEntryNotFoundError:
        problem = "the hub cannot be reached, and the weights are not in its local cache"
        fix = "Check the network, or set `weights` to the path of a sam3.pt"
    except HfHubHTTPError as error:
        status = error.response.status_code
        problem = f"the hub answered {status}"
        fix = "Try again later, or set `weights` to the path of a sam3.pt"
        if status in (401, 403, 404):  # it hides what a login may not see
            fix = "Log in with `hf auth login`, or set the variable HF_TOKEN"
    raise WeightsError(problem, file=f"{HUB_MODEL}/{HUB_FILE}", fix=fix)


def _shipped_model() -> Sam3Image:
    """The tiny model with segtune's own weights: its parameters, in half precision."""
    model = build_model("tiny")
    parameters = {name: value.float() for name, value in load_file(TINY_WEIGHTS).items()}
    trainable = dict(model.named_parameters())
    # Buffers follow from the architecture; the file leaves them out.
    buffers = {k: value for k, value in model.state_dict().items() if k not in trainable}
    load_strictly(model, {**buffers, **parameters}, TINY_WEIGHTS)
    return model


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise WeightsError("no such file", file=path, fix="Check `weights`") from None
    except (RuntimeError, UnpicklingError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"not a readable file of tensors ({reason})", file=path, fix="Fetch it anew"
        ) from None
    values = values.get("model", values) if isinstance(values, dict) else {}
    return {key: value for key, value in values.items() if isinstance(value, Tensor)}


def _seed(weights: str) -> int:
    try:
        return int(weights.removeprefix("random:"))
    except ValueError:
        raise WeightsError(
            f"no seed in {weights!r}", fix="Write it as random:0, with any whole number"
        ) from None


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - MAX_LISTED_KEYS} more" if len(keys) > MAX_LISTED_KEYS else ""
    return ", ".join(keys[:MAX_LISTED_KEYS]) + more
