"""What segtune's versions of the package's classes leave out, and that it makes no difference."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from segtune.dataset.batch import normalized
from segtune.model.architecture import build_model
from segtune.model.components import ImageRows
from segtune.model.forward import grounding_outputs
from segtune.model.sam3_package import Sam3Image
from tests.batches import OUTPUTS, random_batch
from tests.module_calls import calls_of

BATCH = random_batch(((0, 1, 0), (2,)))  # three prompts of one image, one of another


@pytest.fixture
def model() -> Sam3Image:
    return build_model("tiny").eval()


def test_rows_of_images_are_found_in_any_order() -> None:
    rows = ImageRows.of(torch.tensor([2, 0, 0, 2, 1]), 4)
    assert rows.first.tolist() == [1, 4, 0, 4]  # the last one has no prompt


def shapes_of(model: Sam3Image, module: torch.nn.Module) -> list[tuple[int, ...]]:
    """Of what a module is called with in a forward pass."""
    shapes: list[tuple[int, ...]] = []

    def note(_: Any, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        given = [*arguments, *named.values()]
        shapes.append(next(tuple(x.shape) for x in given if isinstance(x, Tensor)))

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    grounding_outputs(model, BATCH)
    handle.remove()
    return shapes


def test_the_first_layer_attends_within_an_image_once(model: Sam3Image) -> None:
    layers = model.transformer.encoder.layers
    assert shapes_of(model, layers[0].self_attn) == [(2, 64, 64)]
    assert shapes_of(model, layers[1].self_attn) == [(4, 64, 64)]


def test_without_boxes_the_geometry_of_an_image_is_encoded_once(model: Sam3Image) -> None:
    assert shapes_of(model, model.geometry_encoder.encode[0].cross_attn_image) == [(1, 2, 64)]


def test_outputs_are_those_of_computing_for_each_prompt(model: Sam3Image) -> None:
    found = grounding_outputs(model, BATCH)
    stock = build_model("tiny").eval()
    stock.__class__ = Sam3Image  # which never says which rows show which image
    expected = grounding_outputs(stock, BATCH)
    assert stock.transformer.encoder.layers[0].rows is None
    for name in OUTPUTS:
        assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("blocks", range(4))
def test_the_trunk_is_its_prefix_and_the_rest(model: Sam3Image, blocks: int) -> None:
    trunk = model.backbone.vision_backbone.trunk
    images = normalized(BATCH.images)
    with torch.no_grad():
        (expected,) = trunk(images)
        prefix = trunk.prefix(images, blocks)
        trunk.first_block = blocks
        (found,) = trunk(prefix)
    assert torch.equal(found, expected)


def test_only_what_is_read_of_the_neck_is_computed(model: Sam3Image) -> None:
    neck = model.backbone.vision_backbone
    assert len(neck.convs) == 4  # the weights of SAM 3
    with calls_of(neck.convs[3]) as unread, calls_of(neck.position_encoding) as positions:
        grounding_outputs(model, BATCH)
    assert not unread and len(positions) == 1
