"""A model's folder as the transformers package reads it: `config.json` and `model.safetensors`."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from segtune.core.atomic import write_json
from segtune.core.errors import WeightsError
from segtune.interchange.safetensors_file import Anew, write_safetensors
from segtune.interchange.transformers_config import model_config
from segtune.interchange.transformers_keys import (
    POSITIONS,
    from_transformers,
    renamed,
    to_transformers,
)
from segtune.model.architecture import SCALE_FACTORS, Architecture
from segtune.model.mapped_weights import bytes_of, in_groups
from segtune.model.updated_file import same_bits

WEIGHTS = "model.safetensors"


def write_transformers_model(
    folder: Path, detector: Anew, arch: Architecture, *, image_size: int
) -> None:
    """Write a model, and compare the file with what it was made of.

    Args:
        folder: for `config.json` and `model.safetensors`.
        detector: gives tensors by the image model's own keys, in the precision in which to write
            them; each time, they are mapped anew.
        arch: of the model.
        image_size: side of the input, in pixels.

    Raises:
        WeightsError: when a tensor, mapped back from the file, is not bitwise the same.
    """
    write_json(folder / "config.json", model_config(arch, image_size))
    write_safetensors(folder / WEIGHTS, lambda: _renamed(detector(), arch))
    for keys in in_groups(bytes_of(detector())):
        tensors = detector()
        _require_same_bits(folder / WEIGHTS, {key: tensors[key] for key in keys})


def _renamed(detector: Mapping[str, Tensor], arch: Architecture) -> dict[str, Tensor]:
    tensors = {
        name: part
        for key, tensor in detector.items()
        for name, part in to_transformers(key, tensor).items()
    }
    return _unread_scale(tensors, arch) | tensors


def _unread_scale(tensors: Mapping[str, Tensor], arch: Architecture) -> dict[str, Tensor]:
    """Weights for the last feature map, which transformers makes and does not read.

    SAM 3.1 has none. For SAM 3, those of the model take the place of these.
    """
    layer = f"vision_encoder.neck.fpn_layers.{len(SCALE_FACTORS) - 1}"
    shapes = {
        "proj1.weight": (arch.d_model, arch.vit_width, 1, 1),
        "proj1.bias": (arch.d_model,),
        "proj2.weight": (arch.d_model, arch.d_model, 3, 3),
        "proj2.bias": (arch.d_model,),
    }
    like = tensors["vision_encoder.neck.fpn_layers.0.proj2.bias"]
    return {f"{layer}.{name}": like.new_zeros(shape) for name, shape in shapes.items()}


def _require_same_bits(path: Path, detector: Mapping[str, Tensor]) -> None:
    with safe_open(path, "pt") as file:
        for key, tensor in detector.items():
            names = renamed(key)
            if not names:
                continue
            written = from_transformers(key, {name: file.get_tensor(name) for name in names})
            expected = tensor[:, 1:] if key == POSITIONS else tensor
            if not same_bits(written, expected):
                raise WeightsError(
                    "a tensor is another than in the original weights",
                    file=path,
                    record=key,
                    fix="Run the export again; if it happens again, please report it as a bug",
                )
