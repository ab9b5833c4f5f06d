"""The sizes at which training is measured; `mid` is SAM 3 for CPUs."""

from collections.abc import Mapping

from segtune.core.config import Config, LoraSettings, TrainSettings
from segtune.model.architecture import ARCHITECTURES, Architecture

# 53 million parameters: vision has 54 % of them and text 43 %, as in `full`. It has a quarter of
# the width of `full`, and so many layers that the components take about the fractions of a step's
# time on a CPU that they take of its operations in `full`; narrow layers take more time than
# their operations suggest.
MID = Architecture(
    image_size=294,
    patch_size=14,
    pretrain_image_size=98,
    vit_width=256,
    vit_depth=32,
    vit_heads=4,
    vit_mlp_ratio=4.625,
    vit_window=7,
    vit_global_blocks=(7, 15, 23, 31),
    d_model=64,
    feedforward=512,
    encoder_layers=4,
    decoder_layers=2,
    geometry_layers=1,
    queries=50,
    text_width=384,
    text_heads=6,
    text_layers=2,
)
SIZES: Mapping[str, Architecture] = {**ARCHITECTURES, "mid": MID}


def settings_with_lora_from(size: str, block: int) -> TrainSettings:
    """The recipe of this size with LoRA in vision only from a block on; none after the last.

    `mid` has the recipe of `full` with a quarter of its rank.
    """
    model = "full" if size == "mid" else size
    settings = Config.model_validate({"export": "any", "model": model}).train
    lora, depth = dict(settings.lora), SIZES[size].vit_depth
    if block >= depth:
        del lora["vision"]
    elif block:
        lora["vision"] = lora["vision"].model_copy(update={"blocks": f"{block}-{depth - 1}"})
    if size == "mid":
        lora = {component: _quarter(values) for component, values in lora.items()}
    return settings.model_copy(update={"lora": lora})


def _quarter(lora: LoraSettings) -> LoraSettings:
    return lora.model_copy(update={"rank": lora.rank // 4, "alpha": lora.alpha / 4})
