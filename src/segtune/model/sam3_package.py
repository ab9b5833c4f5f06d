"""The only module that imports the `sam3` package: the parts that segtune builds on.

Importing the package warns about its own deprecated and CUDA-only decorators; users of segtune
cannot act on that, so these warnings are silenced here. Its TorchScript functions stay plain
functions: TorchScript executes the first call of a process differently from later ones, so
the gradients of a resumed training run would differ in the last bits.
"""

# The imports below depend on the state that is set between them.
# ruff: noqa: E402
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.jit import _state as torchscript

torchscript.disable()

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sam3  # noqa: F401

from sam3.model import decoder, encoder, geometry_encoders, vl_combiner
from sam3.model.act_ckpt_utils import activation_ckpt_wrapper
from sam3.model.data_misc import BatchedDatapoint, BatchedFindTarget, FindStage
from sam3.model.decoder import TransformerDecoder, TransformerDecoderLayer
from sam3.model.encoder import TransformerEncoderFusion, TransformerEncoderLayer
from sam3.model.geometry_encoders import Prompt, SequenceGeometryEncoder
from sam3.model.maskformer_segmentation import PixelDecoder, UniversalSegmentationHead
from sam3.model.model_misc import (
    MLP,
    DotProductScoring,
    MultiheadAttentionWrapper,
    TransformerWrapper,
)
from sam3.model.necks import Sam3DualViTDetNeck
from sam3.model.position_encoding import PositionEmbeddingSine
from sam3.model.sam3_image import Sam3Image
from sam3.model.text_encoder_ve import VETextEncoder
from sam3.model.tokenizer_ve import SimpleTokenizer
from sam3.model.vitdet import ViT, get_abs_pos
from sam3.model.vl_combiner import SAM3VLBackbone
from sam3.train.matcher import BinaryHungarianMatcherV2, BinaryOneToManyMatcher

torchscript.enable()


def _any_attention(backends: Sequence[object]) -> AbstractContextManager[None]:
    return nullcontext()


# The package keeps cuDNN's attention away from the text encoder, but only in its forward pass.
# A checkpoint recomputes outside of that context, where a Hopper GPU prefers cuDNN: it saves
# other tensors, and the backward pass fails. Without the context, both passes choose alike.
vl_combiner.sdpa_kernel = _any_attention


def _checkpointed_if_set(module: nn.Module) -> Callable[..., Any]:
    """Run a module, with activation checkpointing where its `checkpointed` is not False.

    The package's encoders and decoder insist on checkpointing whenever they are trained.
    """
    run = activation_ckpt_wrapper(module)

    def forward(*, act_ckpt_enable: bool, **inputs: Any) -> Any:
        enabled = act_ckpt_enable and getattr(module, "checkpointed", True)
        return run(act_ckpt_enable=enabled, **inputs)

    return forward


for _part in (decoder, encoder, geometry_encoders):
    _part.activation_ckpt_wrapper = _checkpointed_if_set

__all__ = [
    "MLP",
    "BatchedDatapoint",
    "BatchedFindTarget",
    "BinaryHungarianMatcherV2",
    "BinaryOneToManyMatcher",
    "DotProductScoring",
    "FindStage",
    "MultiheadAttentionWrapper",
    "PixelDecoder",
    "PositionEmbeddingSine",
    "Prompt",
    "SAM3VLBackbone",
    "Sam3DualViTDetNeck",
    "Sam3Image",
    "SequenceGeometryEncoder",
    "SimpleTokenizer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoderFusion",
    "TransformerEncoderLayer",
    "TransformerWrapper",
    "UniversalSegmentationHead",
    "VETextEncoder",
    "ViT",
    "get_abs_pos",
]
