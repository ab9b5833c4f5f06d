"""The configuration files of the transformers package: what it builds, and what it reads."""

from typing import Any

from segtune.model.architecture import HEADS, SCALE_FACTORS, Architecture
from segtune.model.tokenizer import MAX_TOKENS

NORM_EPS = 1e-5  # of the `sam3` package; transformers' own default for the ViT is 1e-6
VOCABULARY = 49_408
CLIP_PROJECTION = 512  # a projection that SAM 3 has and does not use
MEAN_AND_STD = [0.5, 0.5, 0.5]
START, END = 49_406, 49_407  # tokens
BILINEAR = 2  # Pillow's number


def model_config(arch: Architecture, image_size: int) -> dict[str, Any]:
    """`config.json` of a `Sam3Model`.

    Args:
        arch: of the model.
        image_size: side of the input, in pixels.
    """
    layers = {"hidden_size": arch.d_model, "num_attention_heads": HEADS}
    transformer = {**layers, "intermediate_size": arch.feedforward}
    return {
        "architectures": ["Sam3Model"],
        "model_type": "sam3",
        "dtype": "float32",  # as evaluated, whatever the precision of the file
        "vision_config": _vision(arch, image_size),
        "text_config": _text(arch),
        "geometry_encoder_config": {
            "model_type": "sam3_geometry_encoder",
            **transformer,
            "num_layers": arch.geometry_layers,
        },
        "detr_encoder_config": {
            "model_type": "sam3_detr_encoder",
            **transformer,
            "num_layers": arch.encoder_layers,
        },
        "detr_decoder_config": {
            "model_type": "sam3_detr_decoder",
            **transformer,
            "num_layers": arch.decoder_layers,
            "num_queries": arch.queries,
        },
        "mask_decoder_config": {"model_type": "sam3_mask_decoder", **layers},
    }


def processor_config(image_size: int) -> dict[str, Any]:
    """`processor_config.json` of a `Sam3Processor`; images are resized to a square."""
    side = image_size
    return {
        "processor_class": "Sam3Processor",
        "target_size": side,
        "point_pad_value": -10,
        "image_processor": {
            "image_processor_type": "Sam3ImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": side, "width": side},
            "resample": BILINEAR,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": MEAN_AND_STD,
            "image_std": MEAN_AND_STD,
        },
    }


def _vision(arch: Architecture, image_size: int) -> dict[str, Any]:
    side = image_size // arch.patch_size
    return {
        "model_type": "sam3_vision_model",
        "fpn_hidden_size": arch.d_model,
        "scale_factors": list(SCALE_FACTORS),
        "backbone_feature_sizes": [[scale * side] * 2 for scale in (4, 2, 1)],
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": arch.vit_width,
            "intermediate_size": int(arch.vit_width * arch.vit_mlp_ratio),
            "num_hidden_layers": arch.vit_depth,
            "num_attention_heads": arch.vit_heads,
            "image_size": image_size,
            "patch_size": arch.patch_size,
            "pretrain_image_size": arch.pretrain_image_size,
            "window_size": arch.vit_window,
            "global_attn_indexes": list(arch.vit_global_blocks),
            "layer_norm_eps": NORM_EPS,
        },
    }


def _text(arch: Architecture) -> dict[str, Any]:
    return {
        "model_type": "clip_text_model",
        "vocab_size": VOCABULARY,
        "hidden_size": arch.text_width,
        "intermediate_size": 4 * arch.text_width,
        "num_hidden_layers": arch.text_layers,
        "num_attention_heads": arch.text_heads,
        "projection_dim": CLIP_PROJECTION,
        "max_position_embeddings": MAX_TOKENS,
        "hidden_act": "gelu",
        "layer_norm_eps": NORM_EPS,
        "bos_token_id": START,
        "eos_token_id": END,
    }
