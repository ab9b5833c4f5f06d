"""The only module that imports the `sam3` package: the parts that segtune builds on.

Importing the package warns about its own deprecated and CUDA-only decorators; users of segtune
cannot act on that, so these warnings are silenced here. Its TorchScript functions stay plain
functions: TorchScript executes the first call of a process differently from later ones, so
the gradients of a resumed training run would differ in the last bits.
"""

# The imports below depend on the state that is set between them.
# ruff: noqa: E402
import warnings

from torch.jit import _state as torchscript

torchscript.disable()

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sam3  # noqa: F401

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
from sam3.model.vitdet import ViT
from sam3.model.vl_combiner import SAM3VLBackbone
from sam3.train.matcher import BinaryHungarianMatcherV2, BinaryOneToManyMatcher

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sam3.train.loss import loss_fns
    from sam3.train.loss.sam3_loss import Sam3LossWrapper

torchscript.enable()

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
    "Sam3LossWrapper",
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
    "loss_fns",
]
