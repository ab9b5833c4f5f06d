"""The base model's weights: shipped with segtune, from the hub, from a file, or random."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
)
from safetensors.torch import load_file

from segtune.core.errors import WeightsError, shown
from segtune.core.fingerprints import file_digest
from segtune.model.architecture import build_model
from segtune.model.official_format import load_strictly, read_official, write_official
from segtune.model.recognition import full_name, release_of, require_architecture
from segtune.model.sam3_package import Sam3Image
from segtune.model.weight_files import TINY_WEIGHTS, Release, release_on_hub, weights_file

MAX_SEED_DIGITS = 18  # torch takes 64 bits


def load_base_model(architecture: str, weights: str) -> Sam3Image:
    """The base model on the CPU.

    Args:
        architecture: "tiny" or "full".
        weights: "default", "facebook/sam3" or "facebook/sam3.1" (the hub, with the user's own
            login), the path of an official or merged file, or "random:SEED". The default is
            facebook/sam3 for `full` and the weights that segtune ships for `tiny`.

    Returns:
        A model with the neck of the checkpoint.

    Raises:
        WeightsError: when the weights are not available or do not fit; it names the checkpoint
            that a file resembles, and how it differs.
    """
    if weights.startswith("random:"):
        return build_model(architecture, seed=_seed(weights))
    path = official_file(architecture, weights)
    if path is None:
        return _shipped_model()
    official = read_official(path)
    release = release_of(official, path)
    require_architecture(official, architecture, release, path)
    model = build_model(architecture, neck_scales=release.neck_scales)
    load_strictly(model, official.detector, path, name=full_name(release, architecture))
    return model


def official_file(architecture: str, weights: str) -> Path | None:
    """The official file behind a `weights` setting, downloaded if needed; None without one."""
    if release := release_on_hub(architecture, weights):
        return download(release)
    path = weights_file(architecture, weights)
    return None if path == TINY_WEIGHTS else path


@contextmanager
def checkpoint(architecture: str, weights: str, folder: Path) -> Iterator[Path]:
    """The official file behind a `weights` setting; without one, one that is there for a while.

    Args:
        architecture: "tiny" or "full".
        weights: see `load_base_model`.
        folder: for a file that the setting does not have, in the precision of the model.

    Raises:
        WeightsError: when the weights are not available.
    """
    if path := official_file(architecture, weights):
        yield path
        return
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "base.pt"
        write_official(path, load_base_model(architecture, weights).state_dict(), {})
        yield path


def weights_digest(architecture: str, weights: str) -> str | None:
    """A short hash of the file behind a `weights` setting, downloaded if needed.

    None for random weights, which follow from the setting.

    Raises:
        WeightsError: when the weights are not available.
    """
    if weights.startswith("random:"):
        return None
    path = official_file(architecture, weights) or TINY_WEIGHTS
    return file_digest(path, WeightsError, "Check `weights`")


def download(release: Release) -> Path:
    """A checkpoint from the hub, or from its local cache.

    Raises:
        WeightsError: naming what is missing: a login, access, or the network.
    """
    try:
        return Path(hf_hub_download(release.repository, release.file))
    except GatedRepoError:
        problem = "access denied (403): the weights are gated"
        fix = (
            f"Request access on the page of {release.repository}, then log in with `hf auth login`"
        )
    except LocalEntryNotFoundError:
        problem = "the Hugging Face Hub cannot be reached, and its local cache has no weights"
        fix = f"Check the network, or set `weights` to the path of a {release.file}"
    except HfHubHTTPError as error:
        status = error.response.status_code
        problem = f"the Hugging Face Hub returned status {status}"
        fix = f"Try again later, or set `weights` to the path of a {release.file}"
        if status in (401, 403, 404):  # the hub hides what a login may not see
            fix = "Log in with `hf auth login`, or set the environment variable HF_TOKEN"
    raise WeightsError(problem, file=f"{release.repository}/{release.file}", fix=fix)


def _shipped_model() -> Sam3Image:
    """The tiny model with segtune's own weights: its parameters, in half precision."""
    model = build_model("tiny")
    parameters = {name: value.float() for name, value in load_file(TINY_WEIGHTS).items()}
    trainable = dict(model.named_parameters())
    # Buffers follow from the architecture, so the file leaves them out.
    buffers = {k: value for k, value in model.state_dict().items() if k not in trainable}
    load_strictly(model, {**buffers, **parameters}, TINY_WEIGHTS)
    return model


def _seed(weights: str) -> int:
    text = weights.removeprefix("random:")
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_SEED_DIGITS):
        raise WeightsError(
            f"the seed in {shown(weights)} is not an integer of up to {MAX_SEED_DIGITS} digits",
            fix="Write random:0, for example",
        )
    return int(text)
