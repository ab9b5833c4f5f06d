"""Which published checkpoint an official file holds, and for which architecture."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from segtune.core.errors import WeightsError
from segtune.model.architecture import ARCHITECTURES, Architecture
from segtune.model.official_format import NECKS, PREFIX, TELLING, OfficialWeights
from segtune.model.sam3_package import Sam3Image
from segtune.model.weight_files import RELEASES, SAM3, SAM31, Release


def release_of(official: OfficialWeights, path: Path) -> Release:
    """The checkpoint that a file is, or resembles most, by its necks.

    A file with only the image model is recognized by the scales of its neck.

    Args:
        official: the file's tensors.
        path: of the file, for messages.

    Raises:
        WeightsError: when the file has necks of more than one checkpoint.
    """
    found = [release for release in RELEASES if _video_necks(official, release)]
    if len(found) > 1:
        necks = " and ".join(f"{r.name} ({', '.join(_video_necks(official, r))})" for r in found)
        raise WeightsError(
            f"has necks of both {necks}",
            file=path,
            fix="Use a checkpoint as it was published; two were mixed in this one",
        )
    if found:
        return found[0]
    neck = f"{NECKS}convs."
    keys = [key for key in official.detector if key.startswith(neck)]
    scales = {key.removeprefix(neck).partition(".")[0] for key in keys}
    return SAM31 if scales == set(map(str, range(SAM31.neck_scales))) else SAM3


def require_architecture(
    official: OfficialWeights, architecture: str, release: Release, path: Path
) -> None:
    """Check that a file has no other architecture than the setting `model`.

    Raises:
        WeightsError: naming the architecture that it has.
    """
    held = [name for name, arch in ARCHITECTURES.items() if _is_of(official.detector, arch)]
    if held and architecture not in held:
        raise WeightsError(
            f"holds {full_name(release, held[0])}, and `model` is {architecture!r}",
            file=path,
            fix=f"Set `model: {held[0]}`, or `weights: default`",
        )


def full_name(release: Release, architecture: str) -> str:
    """What a checkpoint of this architecture is called in messages."""
    return release.name if architecture == "full" else f"a {architecture} {release.name}"


def base_model_name(model: Sam3Image, architecture: str) -> str:
    """The name of a model's base for adapters and model cards; its neck tells the checkpoint."""
    if architecture != "full":
        return f"segtune/{architecture}"
    scales = len(model.backbone.vision_backbone.convs)
    return next(release.repository for release in RELEASES if release.neck_scales == scales)


def _video_necks(official: OfficialWeights, release: Release) -> list[str]:
    return [
        neck
        for neck in release.video_necks
        if any(key.startswith(f"{PREFIX}{NECKS}{neck}.") for key in official.rest)
    ]


def _is_of(detector: Mapping[str, Tensor], arch: Architecture) -> bool:
    """Whether the tensors whose shapes tell the architecture have those of this one."""
    sides = (arch.patch_size, arch.patch_size)
    telling = {
        TELLING: (arch.vit_width, 3, *sides),
        "backbone.language_backbone.resizer.weight": (arch.d_model, arch.text_width),
        "transformer.decoder.query_embed.weight": (arch.queries, arch.d_model),
    }
    present = telling.keys() & detector.keys()
    return bool(present) and all(tuple(detector[key].shape) == telling[key] for key in present)
