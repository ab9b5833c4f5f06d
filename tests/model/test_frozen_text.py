"""Frozen text weights are gone as far as the prompts of a run do not need them."""

import pytest
import torch
from torch.testing import assert_close

from segtune.lora.inject import inject_lora, lora_parameters
from segtune.model import precision
from segtune.model.architecture import build_model
from segtune.model.frozen_text import keep_embeddings, replace_text_encoder
from segtune.model.sam3_package import Sam3Image
from tests.batches import adapted_tiny, all_specs, random_batch, randomize_lora, step_gradients

CPU = torch.device("cpu")
BATCH = random_batch(((0, 2, 0), (1, 0)))


def with_frozen_text() -> Sam3Image:
    model = build_model("tiny")
    inject_lora(model, all_specs(without=("text",)))
    randomize_lora(model)
    return model.train()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_loss_and_gradients_are_the_same(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "autocast_dtype", lambda device: dtype)
    model = with_frozen_text()
    expected_loss, expected = step_gradients(model, BATCH)
    replace_text_encoder(model, ["another thing", *BATCH.captions], device=CPU)
    assert model.training
    loss, gradients = step_gradients(model, BATCH)
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    for name, gradient in gradients.items():
        scale = float(expected[name].abs().max())
        assert_close(gradient, expected[name], rtol=tolerance, atol=tolerance * scale, msg=name)


def test_the_encoder_is_out_of_memory_and_no_adapter_is_lost() -> None:
    model = with_frozen_text()
    before = sum(parameter.numel() for parameter in model.parameters())
    text = sum(p.numel() for p in model.backbone.language_backbone.parameters())
    adapters = list(lora_parameters(model))
    replace_text_encoder(model, BATCH.captions, device=CPU)
    assert sum(parameter.numel() for parameter in model.parameters()) == before - text
    assert text > 0
    assert list(lora_parameters(model)) == adapters


def test_the_embeddings_of_known_prompts_are_kept_and_those_of_others_dropped() -> None:
    model, _ = adapted_tiny()
    expected_loss, expected = step_gradients(model, BATCH)
    encoder = model.backbone.language_backbone.encoder
    vocabulary, width = encoder.token_embedding.weight.shape
    before = sum(parameter.numel() for parameter in model.parameters())
    keep_embeddings(model, [*BATCH.captions, "another thing"])
    assert sum(p.numel() for p in model.parameters()) == before - vocabulary * width
    assert sum(b.numel() for b in encoder.token_embedding.buffers() if b.dim() > 1) < 20 * width
    loss, gradients = step_gradients(model, BATCH)
    assert loss == expected_loss
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)
    with pytest.raises(IndexError):
        model.backbone.language_backbone(["a prompt that is not known"], device=CPU)
