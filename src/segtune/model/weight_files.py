"""Which file the settings `model` and `weights` mean; no torch is needed to say so."""

from pathlib import Path

HUB_MODEL = "facebook/sam3"
TINY_WEIGHTS = Path(__file__).parent / "tiny.safetensors"


def weights_file(model: str, weights: str) -> Path | None:
    """The local file that the settings `model` and `weights` mean, or None without one."""
    if (model, weights) == ("tiny", "default"):
        return TINY_WEIGHTS
    if weights in ("default", HUB_MODEL) or weights.startswith("random:"):
        return None
    return Path(weights)
