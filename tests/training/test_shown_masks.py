"""Masks of prompts without objects are not decoded, and the loss does not notice."""

import pytest
import torch
from torch.testing import assert_close

from benchmarks.plain_reference import plain_gradients, plain_loss, plain_model
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.model.architecture import build_model
from segtune.model.forward import grounding_outputs
from segtune.model.sam3_package import Sam3Image
from tests.batches import all_specs, random_batch, randomize_lora, step_gradients

BATCHES = {
    "some": random_batch(((0, 2, 0), (1, 0))),
    "all": random_batch(((1, 3),)),
    "none": random_batch(((0, 0), (0,))),
}


def adapted(model: Sam3Image) -> Sam3Image:
    inject_lora(model, all_specs())
    randomize_lora(model)
    return model.train()


@pytest.mark.parametrize("name", BATCHES)
def test_loss_and_gradients_are_those_of_the_stock_model(name: str) -> None:
    total, gradients = step_gradients(adapted(build_model("tiny")), BATCHES[name])
    stock = adapted(plain_model("tiny"))
    device = torch.device("cpu")
    stock_total = plain_gradients(stock, plain_loss(stock.matcher), BATCHES[name], device)
    assert total == pytest.approx(float(stock_total), rel=1e-5)
    for parameter, value in lora_parameters(stock).items():
        # Without an object, the stock model too has gradients of mask adapters, of zeros.
        assert value.grad is not None
        scale = float(value.grad.abs().max())
        assert_close(gradients[parameter], value.grad, rtol=1e-4, atol=1e-4 * scale + 1e-9)


@pytest.mark.parametrize(("name", "rows"), [("some", 2), ("all", 2), ("none", 1)])
def test_only_prompts_with_objects_are_decoded(name: str, rows: int) -> None:
    outputs = grounding_outputs(adapted(build_model("tiny")), BATCHES[name])
    assert len(outputs["pred_masks"].pixels) == len(outputs["pred_masks_o2m"].pixels) == rows


def test_in_evaluation_mode_every_prompt_is_decoded() -> None:
    outputs = grounding_outputs(adapted(build_model("tiny")).eval(), BATCHES["some"])
    assert len(outputs["pred_masks"]) == 5
