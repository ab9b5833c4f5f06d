"""The names and layout of SAM 3's tensors in the transformers package, and the way back.

There, modules have other names, and queries, keys and values are three tensors. Nothing is
computed, so that every tensor that the package has can be mapped back bitwise identical. It has
neither the geometry encoder's weights for points nor the rotary embeddings, which it computes.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

FUSED = ("q", "k", "v")  # row blocks of a fused projection, in this order
# Parameters of modules that have a name of their own, or another layout.
POSITIONS = "backbone.vision_backbone.trunk.pos_embed"  # (1, 1 + N, C), first that of a class token
PROJECTION = "backbone.language_backbone.encoder.text_projection"  # (in, out)
SPECIAL = {
    POSITIONS: "vision_encoder.backbone.embeddings.position_embeddings",
    PROJECTION: "text_encoder.text_projection.weight",
    "backbone.language_backbone.encoder.positional_embedding": (
        "text_encoder.text_model.embeddings.position_embedding.weight"
    ),
}


def _mlp(depth: int, name: str, other: str) -> dict[str, str]:
    return {f"{name}.layers.{n}": f"{other}.layer{n + 1}" for n in range(depth)}


def _within(prefix: str, other: str, modules: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{name}": f"{other}.{renamed}" for name, renamed in modules.items()}


def _attention(name: str, other: str, out: str = "o_proj") -> dict[str, str]:
    return {f"{name}.in_proj": f"{other}.{{}}_proj", f"{name}.out_proj": f"{other}.{out}"}


_FEEDFORWARD = {"linear1": "mlp.fc1", "linear2": "mlp.fc2"}
_PRE_NORM_LAYER = {
    **_attention("self_attn", "self_attn"),
    **_attention("cross_attn_image", "cross_attn"),
    **_FEEDFORWARD,
    **{f"norm{n}": f"layer_norm{n}" for n in (1, 2, 3)},
}

# Module -> module; "*" is the number of a layer, and "{}" is q, k and v one after the other.
MODULES: Mapping[str, str] = {
    **_within(
        "backbone.vision_backbone.trunk.blocks.*",
        "vision_encoder.backbone.layers.*",
        {
            "norm1": "layer_norm1",
            "norm2": "layer_norm2",
            "attn.qkv": "attention.{}_proj",
            "attn.proj": "attention.o_proj",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        },
    ),
    **_within(
        "backbone.vision_backbone",
        "vision_encoder",
        {
            "trunk.patch_embed.proj": "backbone.embeddings.patch_embeddings.projection",
            "trunk.ln_pre": "backbone.layer_norm",
            "convs.*.dconv_2x2": "neck.fpn_layers.*.scale_layers.0",
            "convs.*.dconv_2x2_0": "neck.fpn_layers.*.scale_layers.0",
            "convs.*.dconv_2x2_1": "neck.fpn_layers.*.scale_layers.2",
            "convs.*.conv_1x1": "neck.fpn_layers.*.proj1",
            "convs.*.conv_3x3": "neck.fpn_layers.*.proj2",
        },
    ),
    **_within(
        "backbone.language_backbone.encoder.transformer.resblocks.*",
        "text_encoder.text_model.encoder.layers.*",
        {
            **_attention("attn", "self_attn", out="out_proj"),
            "ln_1": "layer_norm1",
            "ln_2": "layer_norm2",
            "mlp.c_fc": "mlp.fc1",
            "mlp.c_proj": "mlp.fc2",
        },
    ),
    **_within(
        "backbone.language_backbone",
        "text_encoder.text_model",
        {
            "encoder.token_embedding": "embeddings.token_embedding",
            "encoder.ln_final": "final_layer_norm",
        },
    ),
    "backbone.language_backbone.resizer": "text_projection",
    **_within("geometry_encoder.encode.*", "geometry_encoder.layers.*", _PRE_NORM_LAYER),
    **_within(
        "geometry_encoder",
        "geometry_encoder",
        {
            "label_embed": "label_embed",
            "cls_embed": "cls_embed",
            "boxes_direct_project": "boxes_direct_project",
            "boxes_pool_project": "boxes_pool_project",
            "boxes_pos_enc_project": "boxes_pos_enc_project",
            "final_proj": "final_proj",
            "norm": "prompt_layer_norm",
            "img_pre_norm": "vision_layer_norm",
            "encode_norm": "output_layer_norm",
        },
    ),
    **_within("transformer.encoder.layers.*", "detr_encoder.layers.*", _PRE_NORM_LAYER),
    **_within(
        "transformer.decoder.layers.*",
        "detr_decoder.layers.*",
        {
            **_attention("self_attn", "self_attn"),
            **_attention("ca_text", "text_cross_attn"),
            **_attention("cross_attn", "vision_cross_attn"),
            **_FEEDFORWARD,
            "norm1": "vision_cross_attn_layer_norm",
            "catext_norm": "text_cross_attn_layer_norm",
            "norm2": "self_attn_layer_norm",
            "norm3": "mlp_layer_norm",
        },
    ),
    **_within(
        "transformer.decoder",
        "detr_decoder",
        {
            "norm": "output_layer_norm",
            "query_embed": "query_embed",
            "reference_points": "reference_points",
            "presence_token": "presence_token",
            "presence_token_out_norm": "presence_layer_norm",
            **_mlp(3, "presence_token_head", "presence_head"),
            **_mlp(3, "bbox_embed", "box_head"),
            **_mlp(2, "ref_point_head", "ref_point_head"),
            **_mlp(2, "boxRPB_embed_x", "box_rpb_embed_x"),
            **_mlp(2, "boxRPB_embed_y", "box_rpb_embed_y"),
        },
    ),
    **_within(
        "segmentation_head",
        "mask_decoder",
        {
            "pixel_decoder.conv_layers.*": "pixel_decoder.conv_layers.*",
            "pixel_decoder.norms.*": "pixel_decoder.norms.*",
            "mask_predictor.mask_embed.layers.*": "mask_embedder.layers.*",
            "semantic_seg_head": "semantic_projection",
            "instance_seg_head": "instance_projection",
            **_attention("cross_attend_prompt", "prompt_cross_attn"),
            "cross_attn_norm": "prompt_cross_attn_norm",
        },
    ),
    **_within(
        "dot_prod_scoring",
        "dot_product_scoring",
        {
            **_mlp(2, "prompt_mlp", "text_mlp"),
            "prompt_mlp.out_norm": "text_mlp_out_norm",
            "prompt_proj": "text_proj",
            "hs_proj": "query_proj",
        },
    ),
}
# What the package has no weights for.
_DROPPED = re.compile(
    r"geometry_encoder\.points_\w+_project\.(weight|bias)"
    r"|backbone\.vision_backbone\.trunk\.blocks\.\d+\.attn\.freqs_cis"
)


def renamed_module(module: str) -> str | None:
    """The name of a module in transformers, with "{}" for q, k and v of a fused projection.

    The input projection of attention is the module `in_proj`, as if it were one. None for what
    transformers has not.
    """
    numbers = re.findall(r"(?<=\.)\d+(?=\.|$)", module)
    # An exact name is that of a layer of an MLP, whose number changes.
    if module in MODULES:
        return MODULES[module]
    pattern = MODULES.get(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module, count=1))
    return pattern and pattern.replace("*", numbers[0])


def renamed(key: str) -> tuple[str, ...]:
    """The names in transformers of a tensor of the image model: one, three, or none.

    Args:
        key: in the image model's state dict, without the prefix of an official file.

    Raises:
        KeyError: for a tensor that the image model has not.
    """
    if key in SPECIAL:
        return (SPECIAL[key],)
    if _DROPPED.fullmatch(key):
        return ()
    module, _, parameter = key.replace("in_proj_", "in_proj.").rpartition(".")
    other = renamed_module(module)
    if other is None:
        raise KeyError(key)
    name = f"{other}.{parameter}"
    return tuple(name.format(part) for part in FUSED) if "{}" in name else (name,)


def to_transformers(key: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor of the image model under transformers' names, as views of it; see `renamed`."""
    names = renamed(key)
    if key == POSITIONS:
        tensor = tensor[:, 1:]
    elif key == PROJECTION:
        tensor = tensor.T
    return dict(zip(names, tensor.chunk(max(1, len(names))), strict=bool(names)))


def from_transformers(key: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """The tensor of the image model with this key; of the position embeddings, all but the first.

    Args:
        key: of a tensor that transformers has.
        tensors: by transformers' names.
    """
    tensor = torch.cat([tensors[name] for name in renamed(key)])
    return tensor.T if key == PROJECTION else tensor
