"""The decoder's position bias: that of the package, and not kept for the backward pass."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, UntypedStorage
from torch.testing import assert_close

from segtune.core.config import CHECKPOINTED
from segtune.model.checkpointing import set_checkpointing
from segtune.model.forward import grounding_outputs
from segtune.model.sam3_package import Sam3Image, TransformerDecoder
from tests.batches import adapted_tiny, random_batch

BATCH = random_batch(((0, 1, 0), (2,)))
PROMPTS, HEADS, SIDE = 4, 8, 8


@pytest.fixture
def model() -> Sam3Image:
    model, _ = adapted_tiny()
    return model.train()


@contextmanager
def biases(model: Sam3Image) -> Iterator[list[Tensor]]:
    """Of the attention to the image in every layer that runs within."""
    found: list[Tensor] = []

    def note(_: Any, arguments: Any, named: dict[str, Tensor]) -> None:
        found.append(named["attn_mask"])

    layers = model.transformer.decoder.layers
    hooks = [layer.cross_attn.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    yield found
    for hook in hooks:
        hook.remove()


def test_it_is_that_of_the_package_after_none_for_the_presence_token(model: Sam3Image) -> None:
    decoder = model.transformer.decoder
    with biases(model) as found:
        grounding_outputs(model, BATCH)
    boxes_cxcywh = decoder.reference_points.weight.sigmoid().repeat(2, 1)[:, None]  # of layer 0
    stock = TransformerDecoder._get_rpb_matrix(decoder, boxes_cxcywh, (SIDE, SIDE))
    assert stock.abs().max() > 0.1
    bias = found[0].unflatten(0, (PROMPTS, HEADS))
    for prompt in bias:
        assert not prompt[:, 0].any()
        assert_close(prompt[:, 1:], stock[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("checkpointed", [CHECKPOINTED, ()])
def test_it_is_not_kept_for_the_backward_pass(
    model: Sam3Image, checkpointed: tuple[Any, ...]
) -> None:
    set_checkpointing(model, checkpointed)
    with biases(model) as found:
        outputs = grounding_outputs(model, BATCH)
    layers = len(model.transformer.decoder.layers)
    kept: list[weakref.ref[UntypedStorage]] = [weakref.ref(b.untyped_storage()) for b in found]
    assert len(kept) == layers
    assert all(storage() is not None for storage in kept)
    found.clear()
    assert all(storage() is None for storage in kept)
    outputs["pred_logits"].sum().backward()


def test_a_gradient_reaches_what_it_is_made_of(model: Sam3Image) -> None:
    gradients = []
    for checkpointed in (CHECKPOINTED, ()):
        set_checkpointing(model, checkpointed)
        network = model.transformer.decoder.boxRPB_embed_x.requires_grad_()
        outputs = grounding_outputs(model, BATCH)
        parameters = list(network.parameters())
        gradients.append(torch.autograd.grad(outputs["pred_logits"].square().sum(), parameters))
    for found, expected in zip(*gradients, strict=True):
        assert expected.abs().max() > 0
        assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_the_size_of_the_feature_map_is_not_asked_for(model: Sam3Image) -> None:
    grounding_outputs(model, BATCH)
    boxes_cxcywh = torch.rand(3, PROMPTS, 4)
    found = model.transformer.decoder._get_rpb_matrix(boxes_cxcywh, object())
    assert found.shape == (PROMPTS, HEADS, 3, 2 * SIDE)
