"""Activation checkpointing by component: what is computed again in the backward pass.

Keeping activations takes memory, computing them again takes time.
"""

from collections.abc import Collection

from segtune.core.config import Checkpointed
from segtune.model.sam3_package import Sam3Image, VETextEncoder


def set_checkpointing(model: Sam3Image, components: Collection[Checkpointed]) -> None:
    """Compute the activations of these components again in backward passes, and keep the others'.

    Args:
        model: in place. As built, it checkpoints all.
        components: to be checkpointed; the geometry encoder follows `detr_encoder`.
    """
    model.backbone.vision_backbone.trunk.use_act_checkpoint = "vision" in components
    text = model.backbone.language_backbone
    if isinstance(text, VETextEncoder):  # a frozen one is replaced by its outputs
        text.encoder.transformer.grad_checkpointing = "text" in components
    for layer in (*model.transformer.encoder.layers, *model.geometry_encoder.encode):
        layer.checkpointed = "detr_encoder" in components
    for layer in model.transformer.decoder.layers:
        layer.checkpointed = "detr_decoder" in components
    model.use_act_checkpoint_seg_head = "segmentation" in components
