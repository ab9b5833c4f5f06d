"""Which file the settings `model` and `weights` refer to; this needs no torch."""

from pathlib import Path

HUB_MODEL = "facebook/sam3"
TINY_WEIGHTS = Path(__file__).parent / "tiny.safetensors"


def weights_file(architecture: str, weights: str) -> Path | None:
    """The local file that a `weights` setting refers to, or None without one.

    Args:
        architecture: the `model` setting, "tiny" or "full".
        weights: see `segtune.model.weights.load_base_model`.
    """
    if (architecture, weights) == ("tiny", "default"):
        return TINY_WEIGHTS
    if weights in ("default", HUB_MODEL) or weights.startswith("random:"):
        return None
    return Path(weights)
