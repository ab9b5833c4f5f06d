"""The architectures `full` and `tiny`, built from the component classes of the `sam3` package.

`full` has exactly the keys and shapes of the stock image model; `tiny` is a miniature of
the same classes for laptops and tests. The stock builder is not used because it places
tensors on `cuda` at construction. segtune only prompts with text.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from segtune.core.errors import ConfigError
from segtune.model.components import (
    EncoderLayer,
    Matcher,
    Neck,
    PositionEncoding,
    TextPromptedGeometryEncoder,
    Tokenizer,
    Trunk,
)
from segtune.model.decoder import Decoder, DecoderLayer
from segtune.model.mask_decoding import SelectiveMaskSam3
from segtune.model.mask_embeddings import SegmentationHead
from segtune.model.sam3_package import (
    MLP,
    BinaryHungarianMatcherV2,
    DotProductScoring,
    MultiheadAttentionWrapper,
    PixelDecoder,
    PositionEmbeddingSine,
    Sam3Image,
    SAM3VLBackbone,
    SequenceGeometryEncoder,
    TransformerEncoderFusion,
    TransformerWrapper,
    VETextEncoder,
)
from segtune.model.tokenizer import bpe_vocabulary


@dataclass(frozen=True)
class Architecture:
    """The numbers in which the architectures differ."""

    image_size: int  # pixels, square input
    patch_size: int  # pixels
    pretrain_image_size: int  # pixels; its position embeddings are tiled over the input
    vit_width: int
    vit_depth: int
    vit_heads: int
    vit_mlp_ratio: float
    vit_window: int  # patches
    vit_global_blocks: tuple[int, ...]
    d_model: int
    feedforward: int
    encoder_layers: int
    decoder_layers: int
    geometry_layers: int
    queries: int
    text_width: int
    text_heads: int
    text_layers: int


ARCHITECTURES: Mapping[str, Architecture] = {
    "full": Architecture(
        image_size=1008,
        patch_size=14,
        pretrain_image_size=336,
        vit_width=1024,
        vit_depth=32,
        vit_heads=16,
        vit_mlp_ratio=4.625,
        vit_window=24,
        vit_global_blocks=(7, 15, 23, 31),
        d_model=256,
        feedforward=2048,
        encoder_layers=6,
        decoder_layers=6,
        geometry_layers=3,
        queries=200,
        text_width=1024,
        text_heads=16,
        text_layers=24,
    ),
    "tiny": Architecture(
        image_size=96,
        patch_size=12,
        pretrain_image_size=48,
        vit_width=96,
        vit_depth=3,
        vit_heads=4,
        vit_mlp_ratio=3.0,
        vit_window=4,
        vit_global_blocks=(2,),
        d_model=64,
        feedforward=192,
        encoder_layers=2,
        decoder_layers=3,
        geometry_layers=1,
        queries=12,
        text_width=48,
        text_heads=4,
        text_layers=2,
    ),
}

HEADS = 8  # of every attention outside the ViT and the text encoder
SCALE_FACTORS = (4.0, 2.0, 1.0, 0.5)  # of the neck's feature maps, relative to the ViT's


def build_model(
    architecture: str | Architecture, seed: int = 0, neck_scales: int = len(SCALE_FACTORS)
) -> Sam3Image:
    """Build SAM 3 with random weights, on the CPU.

    Everything is initialized, including the text encoder's `positional_embedding` and
    `text_projection`, which the package leaves as uninitialized memory. Dropout and
    stochastic depth are off: the base is frozen, and LoRA has a dropout of its own.

    Args:
        architecture: "tiny", "full", or numbers of your own.
        seed: of the random weights; the global generator is left unchanged.
        neck_scales: feature maps that the neck has weights for, at least 3. The model reads the
            first three; the fourth, which SAM 3 has and SAM 3.1 has not, is not computed.
    """
    arch = ARCHITECTURES[architecture] if isinstance(architecture, str) else architecture
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SelectiveMaskSam3(
            backbone=SAM3VLBackbone(
                visual=_vision(arch, neck_scales),
                text=_text(arch),
            ),
            transformer=_transformer(arch),
            input_geometry_encoder=_geometry_encoder(arch),
            segmentation_head=_segmentation_head(arch),
            dot_prod_scoring=_scoring(arch),
            num_feature_levels=1,
            o2m_mask_predict=True,
            use_instance_query=False,
            multimask_output=True,
            matcher=matcher(),
        )
        _initialize_text(model)
    return model


def set_image_size(model: Sam3Image, architecture: str, image_size: int | None) -> int:
    """Change the input size of a model on the CPU, in place.

    The rotary position embeddings of the blocks with global attention are computed again, as
    the package does for an input of that size; everything else adapts to its input.

    Args:
        model: of this architecture.
        architecture: "tiny" or "full".
        image_size: pixels, a multiple of 336 (`full`) or 48 (`tiny`); None: unchanged.

    Returns:
        The size in pixels.

    Raises:
        ConfigError: for a size that is not a whole number of attention windows.
    """
    arch = ARCHITECTURES[architecture]
    unit = arch.patch_size * arch.vit_window
    if image_size is None or image_size == arch.image_size:
        return arch.image_size
    if image_size < unit or image_size % unit:
        raise ConfigError(
            f"image_size {image_size} is not a multiple of {unit}: the {architecture} model "
            f"attends in windows of {arch.vit_window} patches of {arch.patch_size} pixels",
            fix=f"Choose {', '.join(str(n * unit) for n in range(1, 5))}, …",
        )
    side = image_size // arch.patch_size
    for number in arch.vit_global_blocks:
        attention = model.backbone.vision_backbone.trunk.blocks[number].attn
        attention.input_size = (side, side)
        attention._setup_rope_freqs()
    return image_size


def matcher() -> BinaryHungarianMatcherV2:
    """The one-to-one matcher with the costs of the official fine-tuning recipe."""
    return Matcher(focal=True, cost_class=2.0, cost_bbox=5.0, cost_giou=2.0, alpha=0.25, gamma=2)


def _position_encoding(arch: Architecture) -> PositionEmbeddingSine:
    # precompute_resolution=None, because the package would fill the cache on cuda.
    return PositionEncoding(num_pos_feats=arch.d_model, normalize=True, precompute_resolution=None)


def _vision(arch: Architecture, neck_scales: int) -> Neck:
    trunk = Trunk(
        img_size=arch.image_size,
        pretrain_img_size=arch.pretrain_image_size,
        patch_size=arch.patch_size,
        embed_dim=arch.vit_width,
        depth=arch.vit_depth,
        num_heads=arch.vit_heads,
        mlp_ratio=arch.vit_mlp_ratio,
        window_size=arch.vit_window,
        global_att_blocks=arch.vit_global_blocks,
        norm_layer="LayerNorm",
        drop_path_rate=0.0,
        qkv_bias=True,
        use_abs_pos=True,
        tile_abs_pos=True,
        rel_pos_blocks=(),
        use_rope=True,
        use_interp_rope=True,
        pretrain_use_cls_token=True,
        retain_cls_token=False,
        ln_pre=True,
        ln_post=False,
        return_interm_layers=False,
        bias_patch_embed=False,
    )
    return Neck(
        position_encoding=_position_encoding(arch),
        d_model=arch.d_model,
        scale_factors=SCALE_FACTORS[:neck_scales],
        trunk=trunk,
    )


def _text(arch: Architecture) -> VETextEncoder:
    return VETextEncoder(
        tokenizer=Tokenizer(bpe_path=str(bpe_vocabulary())),
        d_model=arch.d_model,
        width=arch.text_width,
        heads=arch.text_heads,
        layers=arch.text_layers,
    )


def _attention(arch: Architecture, batch_first: bool) -> MultiheadAttentionWrapper:
    return MultiheadAttentionWrapper(
        num_heads=HEADS, dropout=0.0, embed_dim=arch.d_model, batch_first=batch_first
    )


def _encoder_layer(arch: Architecture, for_geometry: bool) -> EncoderLayer:
    return EncoderLayer(
        activation="relu",
        d_model=arch.d_model,
        dim_feedforward=arch.feedforward,
        dropout=0.0,
        pos_enc_at_attn=not for_geometry,
        pos_enc_at_cross_attn_keys=for_geometry,
        pos_enc_at_cross_attn_queries=False,
        pre_norm=True,
        self_attention=_attention(arch, batch_first=not for_geometry),
        cross_attention=_attention(arch, batch_first=not for_geometry),
    )


def _transformer(arch: Architecture) -> TransformerWrapper:
    encoder = TransformerEncoderFusion(
        layer=_encoder_layer(arch, for_geometry=False),
        num_layers=arch.encoder_layers,
        d_model=arch.d_model,
        num_feature_levels=1,
        frozen=False,
        use_act_checkpoint=True,
        add_pooled_text_to_img_feat=False,
        pool_text_with_mask=True,
    )
    return TransformerWrapper(encoder=encoder, decoder=_decoder(arch), d_model=arch.d_model)


def _decoder(arch: Architecture) -> Decoder:
    layer = DecoderLayer(
        activation="relu",
        d_model=arch.d_model,
        dim_feedforward=arch.feedforward,
        dropout=0.0,
        cross_attention=_attention(arch, batch_first=False),
        n_heads=HEADS,
        use_text_cross_attention=True,
    )
    return Decoder(
        layer=layer,
        num_layers=arch.decoder_layers,
        num_queries=arch.queries,
        return_intermediate=True,
        box_refine=True,
        num_o2m_queries=0,
        dac=True,
        boxRPB="log",
        d_model=arch.d_model,
        frozen=False,
        interaction_layer=None,
        dac_use_selfatt_ln=True,
        # resolution and stride stay None: given both, the package fills a cache on cuda.
        use_act_checkpoint=True,
        presence_token=True,
    )


def _geometry_encoder(arch: Architecture) -> SequenceGeometryEncoder:
    return TextPromptedGeometryEncoder(
        pos_enc=_position_encoding(arch),
        encode_boxes_as_points=False,
        points_direct_project=True,
        points_pool=True,
        points_pos_enc=True,
        boxes_direct_project=True,
        boxes_pool=True,
        boxes_pos_enc=True,
        d_model=arch.d_model,
        num_layers=arch.geometry_layers,
        layer=_encoder_layer(arch, for_geometry=True),
        use_act_ckpt=True,
        add_cls=True,
        add_post_encode_proj=True,
    )


def _segmentation_head(arch: Architecture) -> SegmentationHead:
    return SegmentationHead(
        hidden_dim=arch.d_model,
        upsampling_stages=3,
        aux_masks=False,
        presence_head=False,
        dot_product_scorer=None,
        act_ckpt=False,  # the model recomputes the whole head already
        cross_attend_prompt=_attention(arch, batch_first=False),
        pixel_decoder=PixelDecoder(
            num_upsampling_stages=3, interpolation_mode="nearest", hidden_dim=arch.d_model
        ),
    )


def _scoring(arch: Architecture) -> DotProductScoring:
    prompt_mlp = MLP(
        input_dim=arch.d_model,
        hidden_dim=arch.feedforward,
        output_dim=arch.d_model,
        num_layers=2,
        dropout=0.0,
        residual=True,
        out_norm=nn.LayerNorm(arch.d_model),
    )
    return DotProductScoring(d_model=arch.d_model, d_proj=arch.d_model, prompt_mlp=prompt_mlp)


def _initialize_text(model: Sam3Image) -> None:
    # CLIP's own scales (Radford et al. 2021): 0.01 for positions, width^-0.5 for the projection.
    encoder = model.backbone.language_backbone.encoder
    nn.init.normal_(encoder.positional_embedding, std=0.01)
    nn.init.normal_(encoder.text_projection, std=encoder.width**-0.5)
