"""The model: the keys of stock SAM 3, everything initialized, one row per prompt."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from segtune.core.config import Component, LoraSettings
from segtune.core.errors import ConfigError
from segtune.lora.inject import inject_lora, lora_parameters, merge_lora
from segtune.lora.targets import LORA_PATTERNS, component_of, lora_specs
from segtune.model.architecture import ARCHITECTURES, build_model, set_image_size
from segtune.model.forward import (
    detect_encoded,
    encode_images,
    encode_prompts,
    evaluating,
    grounding_outputs,
    loss_targets,
)
from segtune.model.tokenizer import bpe_vocabulary
from segtune.training.losses import build_loss, prompted_loss
from tests.batches import adapted_tiny, all_specs, largest_difference, random_batch

OUTPUTS = ("pred_logits", "pred_boxes", "pred_masks", "presence_logit_dec")


class OnMeta(TorchFunctionMode):
    """Allocate on meta instead of cuda, except `linspace`, whose values the package reads."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.linspace:
            kwargs["device"] = "cpu"
        elif str(kwargs.get("device")) == "cuda":
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    with torch.device("meta"), OnMeta():
        yield


def shapes(model: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(t.shape), t.dtype) for name, t in model.state_dict().items()}


@pytest.fixture(scope="module")
def full() -> nn.Module:
    with on_meta():
        return build_model("full")


def test_full_has_the_keys_and_shapes_of_stock_sam3(full: nn.Module) -> None:
    # Warns unless segtune has imported the package before.
    from sam3.model_builder import build_sam3_image_model

    with on_meta():
        stock = build_sam3_image_model(
            bpe_path=str(bpe_vocabulary()), device="cpu", load_from_HF=False
        )
    assert shapes(full) == shapes(stock)


def test_full_has_the_published_number_of_parameters(full: nn.Module) -> None:
    counts: dict[str, int] = {}
    for name, parameter in full.named_parameters():
        component = component_of(name)
        counts[component] = counts.get(component, 0) + parameter.numel()
    millions = {component: round(count / 1e6, 1) for component, count in counts.items()}
    assert millions["vision"] == 454.0
    assert millions["text"] == 353.7
    assert round(sum(counts.values()) / 1e6, 1) == 840.5


@pytest.mark.parametrize("component", sorted(LORA_PATTERNS))
def test_every_component_of_full_can_be_adapted(component: Component) -> None:
    with on_meta():
        model = build_model("full")
    adapted = inject_lora(model, lora_specs({component: LoraSettings()}))
    expected = {
        "vision": 32 * 4,
        "text": 24 * 3,
        "geometry": 3 * 4,
        "detr_encoder": 6 * 4,
        "detr_decoder": 6 * 5,
        "segmentation": 1 + 3,
    }
    assert len(adapted) == expected[component]
    assert {component_of(name) for name in adapted} == {component}


def test_full_has_the_expected_lora_parameters_per_component() -> None:
    with on_meta():
        model = build_model("full")
    inject_lora(model, all_specs(rank=8))
    counts: dict[str, int] = {}
    for name, parameter in lora_parameters(model).items():
        component = component_of(name)
        counts[component] = counts.get(component, 0) + parameter.numel()
    # rank * (in + out) per matrix, by hand. ViT: 3 * (1024 + 1024) for q, k, v, 2048 for the
    # output, 2 * (1024 + 4736) for the MLP; attention of width 256 has 4 * 512; an MLP of the
    # DETR layers has 2 * (256 + 2048).
    assert counts["vision"] == 32 * 8 * (3 * 2048 + 2048 + 2 * 5760)
    assert counts["text"] == 24 * 8 * (4 * 2048 + 2 * 5120)
    assert counts["detr_encoder"] == 6 * 8 * (2 * 4 * 512 + 2 * 2304)
    assert counts["detr_decoder"] == 6 * 8 * (3 * 4 * 512 + 2 * 2304)
    assert counts["geometry"] == 3 * 8 * (2 * 512 + 4 * 512 + 2 * 2304)
    assert counts["segmentation"] == 8 * (4 * 512 + 3 * 512)


def test_no_weight_is_left_uninitialized() -> None:
    model, same, other = build_model("tiny", 3), build_model("tiny", 3), build_model("tiny", 4)
    for (name, value), twin in zip(
        model.state_dict().items(), same.state_dict().values(), strict=True
    ):
        assert torch.equal(value, twin), name
        assert torch.isfinite(torch.view_as_real(value) if value.is_complex() else value).all()
    for name in ("positional_embedding", "text_projection"):
        mine = getattr(model.backbone.language_backbone.encoder, name)
        assert mine.std() > 0
        assert not torch.equal(mine, getattr(other.backbone.language_backbone.encoder, name))


def test_building_does_not_change_the_global_generator() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    build_model("tiny")
    assert torch.equal(torch.rand(1), expected)


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


def test_merged_and_adapted_models_agree() -> None:
    model, _ = adapted_tiny()
    batch, base = random_batch(((0, 0), (0,))), build_model("tiny")
    with evaluating(model), evaluating(base), torch.inference_mode():
        adapted, untouched = grounding_outputs(model, batch), grounding_outputs(base, batch)
        merge_lora(model)
        merged = grounding_outputs(model, batch)
    for name in OUTPUTS:
        size = adapted[name].abs().max().item()
        assert largest_difference(adapted[name], merged[name]) < 1e-4 * size
        # A new box head is zero, so every random model starts from the same boxes.
        if name != "pred_boxes":
            assert largest_difference(adapted[name], untouched[name]) > 1e-2 * size


def test_a_step_updates_every_adapter_and_no_base_weight() -> None:
    model, batch = build_model("tiny"), random_batch(((1, 0), (2,)))
    base = {name: value.clone() for name, value in model.state_dict().items()}
    inject_lora(model, all_specs())
    model.train()
    loss = build_loss(model.matcher, with_masks=True)
    optimizer = torch.optim.AdamW(lora_parameters(model).values(), lr=1e-3)
    outputs, targets = grounding_outputs(model, batch), loss_targets(model, batch)
    prompted_loss(loss, outputs, targets, step_boxes=3.0, step_prompts=3.0)[0].backward()
    for name, parameter in lora_parameters(model).items():
        if "lora_B" in name:
            assert parameter.grad is not None and parameter.grad.any(), name
    optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in base.items())


def test_the_input_is_a_whole_number_of_windows() -> None:
    for arch in ARCHITECTURES.values():
        patches = arch.image_size // arch.patch_size
        assert patches * arch.patch_size == arch.image_size
        assert patches % arch.vit_window == 0


@pytest.mark.parametrize("image_size", [48, 144])
def test_another_input_size_has_the_position_embeddings_of_the_package(image_size: int) -> None:
    model, arch = build_model("tiny"), ARCHITECTURES["tiny"]
    assert set_image_size(model, "tiny", image_size) == image_size
    with patch.dict(ARCHITECTURES, tiny=replace(arch, image_size=image_size)):
        built = build_model("tiny")
    assert model.state_dict().keys() == built.state_dict().keys()
    for name, value in built.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    image = torch.randn(1, 3, image_size, image_size)
    with evaluating(model), evaluating(built), torch.inference_mode():
        one, other = (encode_images(m, image)["backbone_fpn"] for m in (model, built))
    side = image_size // arch.patch_size
    assert one[-1].shape[-2:] == (side, side)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize("image_size", [None, 1008, 336, 672, 1344])
def test_full_accepts_multiples_of_336(image_size: int | None) -> None:
    with on_meta():
        model = build_model("full")
        assert set_image_size(model, "full", image_size) == (image_size or 1008)


@pytest.mark.parametrize("image_size", [0, 100, 518, 1024])
def test_full_refuses_any_other_size(image_size: int) -> None:
    with on_meta():
        model = build_model("full")
        message = f"image_size {image_size} is not a multiple of 336.*windows of 24 patches of 14"
        with pytest.raises(ConfigError, match=message):
            set_image_size(model, "full", image_size)
