"""The model: the keys of stock SAM 3, everything initialized, and its input sizes."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import nn

from benchmarks.meta_device import on_meta
from segtune.core.config import VISION_BLOCKS, WINDOW_PIXELS
from segtune.core.errors import ConfigError
from segtune.lora.targets import component_of
from segtune.model.architecture import ARCHITECTURES, build_model, set_image_size
from segtune.model.forward import (
    encode_images,
    evaluating,
)
from segtune.model.recognition import base_model_name
from segtune.model.tokenizer import bpe_vocabulary


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


def test_the_full_sam31_has_the_tensors_of_the_published_file(full: nn.Module) -> None:
    with on_meta():
        sam31 = build_model("full", neck_scales=3)
    one, other = shapes(full), shapes(sam31)
    assert len(one) == 1134
    assert len(other) == 1166 - 36  # without the two necks of the video model
    fourth = {f"backbone.vision_backbone.convs.3.{name}" for name in ("conv_1x1", "conv_3x3")}
    assert {key.rpartition(".")[0] for key in one.keys() - other.keys()} == fourth
    assert other.items() <= one.items()
    assert base_model_name(full, "full") == "facebook/sam3"
    assert base_model_name(sam31, "full") == "facebook/sam3.1"


def test_full_has_the_published_number_of_parameters(full: nn.Module) -> None:
    counts: dict[str, int] = {}
    for name, parameter in full.named_parameters():
        component = component_of(name)
        counts[component] = counts.get(component, 0) + parameter.numel()
    millions = {component: round(count / 1e6, 1) for component, count in counts.items()}
    assert millions["vision"] == 454.0
    assert millions["text"] == 353.7
    assert round(sum(counts.values()) / 1e6, 1) == 840.5


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


def test_the_input_is_a_whole_number_of_windows() -> None:
    for arch in ARCHITECTURES.values():
        patches = arch.image_size // arch.patch_size
        assert patches * arch.patch_size == arch.image_size
        assert patches % arch.vit_window == 0


def test_the_settings_are_checked_with_the_numbers_of_the_architectures() -> None:
    for name, arch in ARCHITECTURES.items():
        assert WINDOW_PIXELS[name] == arch.patch_size * arch.vit_window
        assert VISION_BLOCKS[name] == arch.vit_depth


@pytest.mark.parametrize("image_size", [48, 144])
def test_another_input_size_has_the_position_embeddings_of_the_package(image_size: int) -> None:
    model, arch = build_model("tiny"), ARCHITECTURES["tiny"]
    assert set_image_size(model, "tiny", image_size) == image_size
    with patch.dict(ARCHITECTURES, tiny=replace(arch, image_size=image_size)):
        built = build_model("tiny")
    assert model.state_dict().keys() == built.state_dict().keys()
    for name, value in built.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    image = torch.randint(256, (1, 3, image_size, image_size)).byte()
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
