"""Adapters that PEFT has trained, compared with PEFT itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from segtune.core.errors import AdapterError
from segtune.lora.adapter import attach_adapter
from segtune.lora.inject import lora_parameters, merge_lora
from segtune.model.architecture import build_model
from segtune.model.forward import encode_images, evaluating

WIDTH = 16
EXACT = {"rtol": 1e-10, "atol": 1e-10}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(WIDTH, 10)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.plain(self.attention(q, k, v, need_weights=False)[0])


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().double()


def trained_by_peft(folder: Path, model: nn.Module, **config: Any) -> PeftModel:
    """A model that PEFT has adapted with random values, saved to a folder."""
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(init_lora_weights=False, **config))
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.mark.parametrize(
    "config",
    [
        {"r": 3, "lora_alpha": 7, "target_modules": ["plain", "qkv"]},
        {"r": 4, "lora_alpha": 7, "target_modules": ["plain"], "use_rslora": True},
        {"r": 3, "lora_alpha": 7, "target_modules": ["attention"]},
        {
            "r": 3,
            "lora_alpha": 7,
            "target_modules": "plain|qkv|attention",
            "rank_pattern": {"qkv": 5},
            "alpha_pattern": {"attention": 2},
        },
    ],
)
def test_an_adapter_trained_by_peft_gives_the_same_outputs(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    theirs = trained_by_peft(tmp_path, net(), **config)
    ours, x = net(), torch.randn(2, 5, WIDTH, dtype=torch.float64)
    assert attach_adapter(ours, tmp_path) is None
    expected = theirs(x)
    assert not torch.allclose(net()(x), expected)
    assert_close(ours(x), expected, **EXACT)
    merge_lora(ours)
    assert_close(ours(x), expected, **EXACT)


def test_an_adapter_of_the_vision_encoder_trained_by_peft_fits_sam3(tmp_path: Path) -> None:
    pattern = r".*vision_backbone\.trunk\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"
    config = {"r": 2, "lora_alpha": 4, "target_modules": pattern}
    theirs = trained_by_peft(tmp_path, build_model("tiny"), **config)
    ours, images = build_model("tiny"), torch.randint(256, (1, 3, 96, 96)).byte()
    attach_adapter(ours, tmp_path)
    assert len(lora_parameters(ours)) == 3 * 4 * 2  # blocks, linears, A and B
    with evaluating(ours), torch.inference_mode():
        features = encode_images(ours, images)["backbone_fpn"][-1]
        expected = encode_images(theirs.base_model.model, images)["backbone_fpn"][-1]
    assert_close(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "LORA with use_dora"),
        ({"bias": "all"}, "LORA with bias"),
        ({"peft_type": "IA3"}, "an adapter of type IA3"),
        ({"modules_to_save": ["plain"]}, "modules_to_save"),
    ],
)
def test_other_methods_than_plain_lora_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    trained_by_peft(tmp_path, net(), r=3, target_modules=["plain"])
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AdapterError, match=message):
        attach_adapter(net(), tmp_path)


@pytest.mark.parametrize("config", [{"bias": "all"}, {"modules_to_save": ["qkv"]}])
def test_tensors_of_other_methods_are_not_called_unexpected(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    trained_by_peft(tmp_path, net(), r=3, target_modules=["plain"], **config)
    (name,) = config
    message = rf"config\.json: an adapter of type LORA with {name} is not supported"
    with pytest.raises(AdapterError, match=message):
        attach_adapter(net(), tmp_path)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    trained_by_peft(tmp_path, net(), r=3, target_modules=["plain"])
    with pytest.raises(AdapterError, match=r"safetensors: plain: the model has no such module"):
        attach_adapter(nn.Sequential(nn.Linear(2, 2)), tmp_path)


def test_an_adapted_module_cannot_be_adapted_again(tmp_path: Path) -> None:
    trained_by_peft(tmp_path, net(), r=3, target_modules=["plain"])
    model = net()
    attach_adapter(model, tmp_path)
    with pytest.raises(AdapterError, match="already adapted"):
        attach_adapter(model, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"lora_alpha": -1},
        {"lora_alpha": float("nan")},
        {"lora_alpha": True},
        {"lora_alpha": "7"},
        {"lora_alpha": None},
        {"lora_dropout": 2},
        {"lora_dropout": True},
        {"use_rslora": "yes"},
        {"alpha_pattern": []},
        {"alpha_pattern": {"plain": "7"}},
        {"alpha_pattern": {str(number): 1 for number in range(20_000)}},
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    trained_by_peft(tmp_path, net(), r=3, target_modules=["plain"])
    edit_config(tmp_path, **change)
    with pytest.raises(AdapterError, match=r"config\.json: not the config of an adapter") as raised:
        attach_adapter(net(), tmp_path)
    assert next(iter(change)) in str(raised.value)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("pattern", ["(p+)+lain", ".*", "plain|qkv", "pl[a]in", "^plain", ""])
def test_no_regular_expression_of_a_file_is_run(tmp_path: Path, pattern: str) -> None:
    trained_by_peft(tmp_path, net(), r=3, target_modules=["plain"])
    edit_config(tmp_path, alpha_pattern={pattern: 2})
    with pytest.raises(AdapterError, match="is not the name of a module"):
        attach_adapter(net(), tmp_path)


@pytest.mark.parametrize(
    ("pattern", "alpha"), [("plain", 2), (r"0\.plain", 2), ("0.plain", 2), ("qkv", 7)]
)
def test_a_pattern_is_the_end_of_a_name(tmp_path: Path, pattern: str, alpha: int) -> None:
    config = {"r": 3, "lora_alpha": 7, "alpha_pattern": {pattern: 2}}
    targets = ["plain", "qkv"]
    theirs = trained_by_peft(tmp_path, nn.Sequential(net()), target_modules=targets, **config)
    ours = nn.Sequential(net())
    attach_adapter(ours, tmp_path)
    assert ours.get_submodule("0.plain").lora.scale == alpha / 3
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    assert_close(ours(x), theirs(x), **EXACT)


def test_a_part_of_a_name_does_not_match(tmp_path: Path) -> None:
    trained_by_peft(tmp_path, net(), r=3, lora_alpha=7, target_modules=["plain"])
    edit_config(tmp_path, alpha_pattern={"lain": 2})
    ours = net()
    attach_adapter(ours, tmp_path)
    assert ours.get_submodule("plain").lora.scale == 7 / 3


def test_a_file_without_adapters_is_refused(tmp_path: Path) -> None:
    trained_by_peft(tmp_path, net(), r=3, target_modules=["plain"])
    save_file({}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="no adapters in this file"):
        attach_adapter(net(), tmp_path)


def test_shapes_without_values_take_no_memory(tmp_path: Path) -> None:
    trained_by_peft(tmp_path, net(), r=3, target_modules=["plain"])
    path = tmp_path / "adapter_model.safetensors"
    down, up = (f"base_model.model.plain.lora_{name}.weight" for name in "AB")
    save_file({down: torch.zeros(10**12, 0), up: torch.zeros(0, 10**12)}, path)
    with pytest.raises(AdapterError, match="2 of another shape"):
        attach_adapter(net(), tmp_path)
