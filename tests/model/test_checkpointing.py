"""Which activations are computed again, and that it makes no difference."""

import pytest
import torch
from torch.testing import assert_close

from segtune.core.config import CHECKPOINTED, Checkpointed
from segtune.model.checkpointing import set_checkpointing
from segtune.model.sam3_package import Sam3Image
from tests.batches import adapted_tiny, random_batch, step_gradients
from tests.module_calls import calls_of

BATCH = random_batch(((0, 2, 0), (1, 0)))


def prepared(components: tuple[Checkpointed, ...]) -> Sam3Image:
    model, _ = adapted_tiny()
    set_checkpointing(model, components)
    return model


@pytest.mark.parametrize("components", [(), *((name,) for name in CHECKPOINTED)])
def test_loss_and_gradients_are_the_same(components: tuple[Checkpointed, ...]) -> None:
    expected_loss, expected = step_gradients(prepared(CHECKPOINTED), BATCH)
    loss, gradients = step_gradients(prepared(components), BATCH)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    for name, gradient in gradients.items():
        scale = float(expected[name].abs().max())
        assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5 * scale, msg=name)


def parts(model: Sam3Image) -> dict[str, torch.nn.Module]:
    """A module of each component that runs once in a forward pass of one shown prompt."""
    return {
        "detr_encoder": model.transformer.encoder.layers[0],
        "segmentation": model.segmentation_head.pixel_decoder,
        "vision": model.backbone.vision_backbone.trunk.blocks[0],
        "detr_decoder": model.transformer.decoder.layers[0],
        "text": model.backbone.language_backbone.encoder.transformer.resblocks[0],
    }


@pytest.mark.parametrize("component", CHECKPOINTED)
def test_a_component_runs_twice_if_it_is_checkpointed_and_once_if_not(
    component: Checkpointed,
) -> None:
    for chosen in (CHECKPOINTED, (component,), ()):
        model = prepared(chosen)
        with calls_of(parts(model)[component]) as calls:
            step_gradients(model, random_batch(((1, 0),)))
        assert len(calls) == (2 if component in chosen else 1), chosen


def test_masks_are_decoded_one_prompt_at_a_time_only_with_checkpointing() -> None:
    for chosen, passes in ((("segmentation",), 2 * 2), ((), 1)):
        model = prepared(chosen)  # type: ignore[arg-type]
        with calls_of(model.segmentation_head.pixel_decoder) as calls:
            step_gradients(model, BATCH)
        assert len(calls) == passes, chosen
