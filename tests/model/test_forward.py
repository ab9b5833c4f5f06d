"""Forward passes: one row per prompt, independent of the rest of the batch."""

import torch

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
