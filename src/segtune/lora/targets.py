"""Where LoRA goes in SAM 3: the modules of each component, by name."""

from collections.abc import Mapping, Sequence

from segtune.core.config import Component, LoraSettings, block_numbers
from segtune.core.errors import ConfigError
from segtune.lora.layers import LoraSpec

# Component -> projections that a module has -> pattern of the module's name. Only modules that
# every text-prompted forward pass uses: an adapter without a gradient would be dead weight.
_ATTENTION = ("q", "k", "v", "out")
_VISION = r"backbone\.vision_backbone\.trunk\.blocks\.\d+\."
_TEXT = r"backbone\.language_backbone\.encoder\.transformer\.resblocks\.\d+\."
LORA_PATTERNS: Mapping[Component, Mapping[tuple[str, ...], str]] = {
    "vision": {
        ("q", "k", "v"): _VISION + r"attn\.qkv",
        ("out",): _VISION + r"attn\.proj",
        ("mlp",): _VISION + r"mlp\.fc[12]",
    },
    "text": {_ATTENTION: _TEXT + "attn", ("mlp",): _TEXT + r"mlp\.(c_fc|c_proj)"},
    "geometry": {
        # Without boxes one token attends to itself: q and k cannot matter there.
        ("v", "out"): r"geometry_encoder\.encode\.\d+\.self_attn",
        _ATTENTION: r"geometry_encoder\.encode\.\d+\.cross_attn_image",
        ("mlp",): r"geometry_encoder\.encode\.\d+\.linear[12]",
    },
    "detr_encoder": {
        _ATTENTION: r"transformer\.encoder\.layers\.\d+\.(self_attn|cross_attn_image)",
        ("mlp",): r"transformer\.encoder\.layers\.\d+\.linear[12]",
    },
    "detr_decoder": {
        _ATTENTION: r"transformer\.decoder\.layers\.\d+\.(self_attn|cross_attn|ca_text)",
        ("mlp",): r"transformer\.decoder\.layers\.\d+\.linear[12]",
    },
    "segmentation": {
        _ATTENTION: r"segmentation_head\.cross_attend_prompt",
        ("mlp",): r"segmentation_head\.mask_predictor\.mask_embed\.layers\.\d+",
    },
}


def lora_specs(components: Mapping[Component, LoraSettings]) -> dict[str, LoraSpec]:
    """Patterns of module names -> how to adapt the modules, for `inject_lora`.

    Args:
        components: what to adapt, as in `train.lora`.

    Raises:
        ConfigError: when a component has none of its targets.
    """
    specs: dict[str, LoraSpec] = {}
    for component, settings in components.items():
        specs |= _component_specs(component, settings)
    return specs


def _component_specs(component: Component, settings: LoraSettings) -> dict[str, LoraSpec]:
    specs = {
        at_block: LoraSpec(
            rank=settings.rank,
            alpha=settings.alpha,
            dropout=settings.dropout,
            projections=_projections(offered, settings.targets),
            rank_stabilized=settings.rank_stabilized,
        )
        for offered, pattern in LORA_PATTERNS[component].items()
        if set(offered) & set(settings.targets)
        for at_block in _at_blocks(pattern, block_numbers(settings.blocks))
    }
    if not specs:
        available = sorted({name for names in LORA_PATTERNS[component] for name in names})
        raise ConfigError(
            f"train.lora.{component} has none of the targets {list(settings.targets)}",
            fix=f"Choose from {available}",
        )
    return specs


def _at_blocks(pattern: str, blocks: Sequence[int]) -> list[str]:
    return [pattern.replace(r"\d+", str(number), 1) for number in blocks] or [pattern]


def _projections(offered: tuple[str, ...], targets: tuple[str, ...]) -> tuple[str, ...]:
    """What to adapt inside a module; empty where the module has only one matrix."""
    return tuple(name for name in offered if name in targets) if len(offered) > 1 else ()


def component_of(parameter: str) -> str:
    """The component that a parameter belongs to, by its full name; one more is "scoring"."""
    prefixes = {
        "backbone.vision_backbone": "vision",
        "backbone.language_backbone": "text",
        "geometry_encoder": "geometry",
        "transformer.encoder": "detr_encoder",
        "transformer.decoder": "detr_decoder",
        "segmentation_head": "segmentation",
        "dot_prod_scoring": "scoring",
    }
    return next(name for prefix, name in prefixes.items() if parameter.startswith(prefix))
