"""Masks of prompts without objects are not decoded, and the loss does not notice."""

from typing import Any

import pytest
from torch.testing import assert_close

from segtune.lora.inject import inject_lora
from segtune.model import architecture
from segtune.model.architecture import build_model
from segtune.model.forward import grounding_outputs
from segtune.model.sam3_package import Sam3Image, UniversalSegmentationHead, loss_fns
from segtune.training import losses
from tests.batches import all_specs, random_batch, randomize_lora, step_gradients

BATCHES = {
    "some": random_batch(((0, 2, 0), (1, 0))),
    "all": random_batch(((1, 3),)),
    "none": random_batch(((0, 0), (0,))),
}


def adapted() -> Sam3Image:
    model = build_model("tiny")
    inject_lora(model, all_specs())
    randomize_lora(model)
    return model.train()


def whole_masks(*, masks_per_chunk: int, **options: Any) -> loss_fns.Masks:
    return loss_fns.Masks(**options)


@pytest.mark.parametrize("name", BATCHES)
def test_loss_and_gradients_are_those_of_the_stock_model(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, gradients = step_gradients(adapted(), BATCHES[name])
    monkeypatch.setattr(architecture, "SelectiveMaskSam3", Sam3Image)
    monkeypatch.setattr(architecture, "SegmentationHead", UniversalSegmentationHead)
    monkeypatch.setattr(losses, "ChunkedMasks", whole_masks)
    stock = adapted()
    assert type(stock) is Sam3Image
    stock_total, expected = step_gradients(stock, BATCHES[name])
    assert total == pytest.approx(stock_total, rel=1e-5)
    for parameter, gradient in gradients.items():
        scale = float(expected[parameter].abs().max())
        assert_close(gradient, expected[parameter], rtol=1e-4, atol=1e-4 * scale + 1e-9)


@pytest.mark.parametrize(("name", "rows"), [("some", 2), ("all", 2), ("none", 1)])
def test_only_prompts_with_objects_are_decoded(name: str, rows: int) -> None:
    outputs = grounding_outputs(adapted(), BATCHES[name])
    assert len(outputs["pred_masks"].pixels) == len(outputs["pred_masks_o2m"].pixels) == rows


def test_in_evaluation_mode_every_prompt_is_decoded() -> None:
    outputs = grounding_outputs(adapted().eval(), BATCHES["some"])
    assert len(outputs["pred_masks"]) == 5
