"""Where LoRA goes in SAM 3: the modules of each component, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from segtune.core.errors import ConfigError
from segtune.lora.layers import LoraSpec

# Where LoRA goes, per component and projection. Only modules that every text-prompted
# forward pass uses: an adapter that never gets a gradient would be silent dead weight.
_ATTENTION = ("q", "k", "v", "out")
_VISION = r"backbone\.vision_backbone\.trunk\.blocks\.\d+\."
_TEXT = r"backbone\.language_backbone\.encoder\.transformer\.resblocks\.\d+\."
LORA_PATTERNS: Mapping[str, Mapping[tuple[str, ...], str]] = {
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


def lora_specs(
    component: str, spec: LoraSpec, targets: tuple[str, ...], blocks: Sequence[int] = ()
) -> dict[str, LoraSpec]:
    """Patterns of module names -> how to adapt them, for one component.

    Args:
        component: a key of `LORA_PATTERNS`.
        spec: rank, alpha, dropout and scaling; its projections are chosen here.
        targets: of "q", "k", "v", "out" (attention) and "mlp" (both its linears).
        blocks: of the vision trunk, counted from 0; empty for all.

    Raises:
        ConfigError: where the component has none of the targets.
    """
    chosen = {
        at_block: replace(spec, projections=_projections(offered, targets))
        for offered, pattern in LORA_PATTERNS[component].items()
        if set(offered) & set(targets)
        for at_block in _at_blocks(pattern, blocks)
    }
    if not chosen:
        offered_here = sorted({name for names in LORA_PATTERNS[component] for name in names})
        raise ConfigError(
            f"train.lora.{component}.targets {list(targets)} name nothing there",
            fix=f"Choose from {offered_here}",
        )
    return chosen


def _at_blocks(pattern: str, blocks: Sequence[int]) -> list[str]:
    return [pattern.replace(r"\d+", str(number), 1) for number in blocks] or [pattern]


def _projections(offered: tuple[str, ...], targets: tuple[str, ...]) -> tuple[str, ...]:
    """What to adapt inside a module; nothing to choose where it offers one matrix only."""
    return tuple(name for name in offered if name in targets) if len(offered) > 1 else ()


def component_of(parameter: str) -> str:
    """The component a parameter belongs to, by its qualified name; "scoring" too."""
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
