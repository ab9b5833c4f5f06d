"""Which precision a device has, and prediction in float16."""

import pytest
import torch
from torch.testing import assert_close

from segtune.core.config import PredictSettings
from segtune.model import precision
from segtune.model.forward import detect_encoded, encode_images, encode_prompts
from segtune.model.frozen_weights import store_frozen_in
from segtune.model.inference import PreparedImage, predict
from segtune.model.precision import autocast_dtype, loss_scaler, mixed_precision
from tests.batches import OUTPUTS, adapted_tiny, random_batch, step_gradients

CPU = torch.device("cpu")


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_without_bfloat16_computes_in_float16(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: torch.dtype
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert autocast_dtype(torch.device("cuda")) == expected
    assert autocast_dtype(CPU) == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_only_float16_has_its_losses_scaled(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "autocast_dtype", lambda device: dtype)
    assert loss_scaler(CPU).is_enabled() is (dtype == torch.float16)
    with mixed_precision(CPU):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype


def test_outputs_in_float16_are_finite_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = adapted_tiny()
    model.eval()
    pixels = random_batch(((1,),)).images

    # Of different lengths, so that one of them is padded, and its padding hidden.
    def outputs() -> dict[str, torch.Tensor]:
        with torch.inference_mode(), mixed_precision(CPU):
            texts = encode_prompts(model, ["disc", "a small red square"], CPU)
            features = {**encode_images(model, pixels), **texts}
            found = detect_encoded(
                model, features, image_ids=torch.zeros(2).long(), text_ids=torch.arange(2)
            )
        return {name: found[name].float() for name in OUTPUTS}

    expected = outputs()
    monkeypatch.setattr(precision, "autocast_dtype", lambda device: torch.float16)
    for name, value in outputs().items():
        assert value.isfinite().all(), name
        scale = float(expected[name].abs().max())
        assert_close(value, expected[name], rtol=0, atol=0.02 * scale, msg=name)
    settings = PredictSettings(confidence_threshold=0.0, max_detections=3)
    image = PreparedImage(id=1, pixels=pixels[0], size=(40, 60), prompts=[(1, "disc")])
    ((_, detections),) = predict(model, [image], ["disc"], device=CPU, settings=settings)
    assert len(detections) == 3
    assert all(0 <= found.score <= 1 for found in detections)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_stored_in_autocast_precision_change_nothing(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "autocast_dtype", lambda device: dtype)
    batch = random_batch(((2, 0), (1,)))
    model, _ = adapted_tiny()
    expected_loss, expected = step_gradients(model, batch)
    store_frozen_in(model, dtype)
    loss, gradients = step_gradients(model, batch)
    assert loss == expected_loss
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected[name]), name


def test_what_autocast_does_not_convert_stays_in_float32() -> None:
    model, _ = adapted_tiny()
    store_frozen_in(model, torch.bfloat16)
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    kept = {name for name, dtype in types.items() if dtype == torch.float32}
    trunk = "backbone.vision_backbone.trunk"
    assert f"{trunk}.blocks.0.attn.qkv.lora.lora_A_q" in kept
    assert f"{trunk}.blocks.0.norm1.weight" in kept
    assert f"{trunk}.pos_embed" in kept
    # The package turns autocast off around these, on a GPU only.
    assert "transformer.decoder.layers.0.linear1.weight" in kept
    assert f"{trunk}.blocks.0.attn.qkv.weight" not in kept
    assert "transformer.encoder.layers.0.self_attn.in_proj_weight" not in kept
    # Most of the memory is in what is converted.
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    frozen = {name for name in kept if ".lora." not in name and "embed" not in name}
    assert sum(sizes[name] for name in frozen) < 0.15 * sum(sizes.values())
