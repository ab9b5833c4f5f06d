"""The published checkpoints, and which file `model` and `weights` refer to; without torch."""

from dataclasses import dataclass
from pathlib import Path

TINY_WEIGHTS = Path(__file__).parent / "tiny.safetensors"


@dataclass(frozen=True)
class Release:
    """A published checkpoint of SAM 3, and the neck by which its image model differs."""

    name: str
    repository: str  # on the Hugging Face Hub
    file: str
    neck_scales: int  # feature maps that the image model's neck makes
    video_necks: tuple[str, ...]  # necks of their own, which only the video model reads


SAM3 = Release(
    name="SAM 3",
    repository="facebook/sam3",
    file="sam3.pt",
    neck_scales=4,
    video_necks=("sam2_convs",),
)
SAM31 = Release(
    name="SAM 3.1",
    repository="facebook/sam3.1",
    file="sam3.1_multiplex.pt",
    neck_scales=3,
    video_necks=("interactive_convs", "propagation_convs"),
)
RELEASES = (SAM3, SAM31)


def release_on_hub(architecture: str, weights: str) -> Release | None:
    """The checkpoint that a `weights` setting names on the hub, or None.

    Args:
        architecture: the `model` setting, "tiny" or "full".
        weights: see `segtune.model.weights.load_base_model`.
    """
    if (architecture, weights) == ("full", "default"):
        return SAM3
    return next((release for release in RELEASES if release.repository == weights), None)


def weights_file(architecture: str, weights: str) -> Path | None:
    """The local file that a `weights` setting refers to, or None without one.

    Args:
        architecture: the `model` setting, "tiny" or "full".
        weights: see `segtune.model.weights.load_base_model`.
    """
    if (architecture, weights) == ("tiny", "default"):
        return TINY_WEIGHTS
    if release_on_hub(architecture, weights) or weights.startswith("random:"):
        return None
    return Path(weights)
