"""Forward passes: one row per prompt, independent of the rest of the batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.lora.inject import inject_lora
from segtune.lora.layers import LoraSpec
from segtune.model.architecture import build_model
from segtune.model.forward import (
    detect_encoded,
    encode_images,
    encode_prompts,
    evaluating,
    grounding_outputs,
)
from tests.batches import OUTPUTS, largest_difference, random_batch


def test_encoding_once_equals_the_whole_forward_pass() -> None:
    model, batch = build_model("tiny"), random_batch(((1, 0), (2,)))
    with evaluating(model), torch.inference_mode():
        whole = grounding_outputs(model, batch)
        features = {
            **encode_images(model, batch.images),
            **encode_prompts(model, list(batch.captions), torch.device("cpu")),
        }
        parts = detect_encoded(model, features, image_ids=batch.image_ids, text_ids=batch.text_ids)
    assert len(whole["pred_logits"]) == 3
    for name in OUTPUTS:
        assert torch.equal(whole[name], parts[name])


def test_the_model_reads_bytes_as_the_official_processor_prepares_them() -> None:
    model, batch = build_model("tiny"), random_batch(((1,),))
    assert batch.images.dtype == torch.uint8
    with evaluating(model), torch.inference_mode():
        prepared = (batch.images.float() / 255 - 0.5) / 0.5
        expected = model.backbone.forward_image(prepared)["backbone_fpn"]
        found = encode_images(model, batch.images)["backbone_fpn"]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_a_row_does_not_depend_on_the_rest_of_the_batch() -> None:
    model = build_model("tiny")
    batch, alone = random_batch(((0, 0, 0), (0,))), random_batch(((0, 0, 0),))
    # The same first image, with and without another one after it.
    alone.images.copy_(batch.images[:1])
    with evaluating(model), torch.inference_mode():
        together, single = grounding_outputs(model, batch), grounding_outputs(model, alone)
    for name in OUTPUTS:
        assert largest_difference(together[name][:3], single[name]) < 1e-5


def test_the_prompt_and_the_image_matter() -> None:
    model, batch = build_model("tiny"), random_batch(((0, 0), (0,)))
    with evaluating(model), torch.inference_mode():
        logits = grounding_outputs(model, batch)["pred_logits"]
    assert largest_difference(logits[0], logits[1]) > 1e-4
    assert largest_difference(logits[0], logits[2]) > 1e-4


def test_the_text_encoder_is_recomputed_with_the_attention_of_its_forward_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On an H100, cuDNN's attention was off in one pass and preferred in the other, and the
    # backward pass failed: different tensors had been saved.
    allowed: list[tuple[bool, ...]] = []
    attention = F.scaled_dot_product_attention

    def noting(*inputs: Tensor, **options: object) -> Tensor:
        cuda = torch.backends.cuda
        allowed.append(
            (
                cuda.cudnn_sdp_enabled(),
                cuda.flash_sdp_enabled(),
                cuda.mem_efficient_sdp_enabled(),
                cuda.math_sdp_enabled(),
            )
        )
        return attention(*inputs, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "scaled_dot_product_attention", noting)
    model = build_model("tiny").train()
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.MultiheadAttention)]
    text = [name for name in names if "language_backbone" in name]
    inject_lora(model, {name: LoraSpec(2, 2.0, projections=("q", "v")) for name in text})
    features = encode_prompts(model, ["a crab"], torch.device("cpu"))
    forward = len(allowed)
    features["language_features"].sum().backward()
    assert len(allowed) == 2 * forward > 0
    assert len(set(allowed)) == 1
