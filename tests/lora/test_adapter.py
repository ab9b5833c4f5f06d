"""Adapters on disk: they are restored completely, or the error says why not."""

import json
from pathlib import Path

import pytest
import torch

from segtune.core.config import RENAMED
from segtune.core.errors import AdapterError
from segtune.lora.adapter import attach_adapter, save_adapter
from segtune.lora.inject import lora_parameters
from segtune.lora.state import lora_state_dict
from segtune.model.architecture import build_model
from tests.batches import adapted_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, adapted = adapted_tiny()
    save_adapter(
        tmp_path,
        lora_state_dict(model),
        specs=adapted,
        base_model="segtune/tiny",
        recipe={"seed": 3},
    )
    return tmp_path


def test_an_adapter_is_restored_with_its_recipe(folder: Path) -> None:
    model = build_model("tiny")
    recipe = attach_adapter(model, folder)
    assert recipe["seed"] == 3
    expected = lora_parameters(adapted_tiny()[0])
    loaded = lora_parameters(model)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def edit_recipe(folder: Path, old: str, new: str) -> None:
    path = folder / "recipe.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_recipe_of_an_earlier_version_is_read(folder: Path) -> None:
    old = next(old for old, new in RENAMED.items() if new == "rank_stabilized")
    edit_recipe(folder, '"rank_stabilized"', f'"{old}"')
    model = build_model("tiny")
    attach_adapter(model, folder)
    assert lora_parameters(model).keys() == lora_parameters(adapted_tiny()[0]).keys()


@pytest.mark.parametrize(("old", "new"), [('"adapted"', '"nothing"'), ('"rank"', '"rang"')])
def test_a_recipe_without_an_adapter_is_an_error(folder: Path, old: str, new: str) -> None:
    edit_recipe(folder, old, new)
    with pytest.raises(AdapterError, match=r"recipe\.json: not the recipe of an adapter"):
        attach_adapter(build_model("tiny"), folder)


def test_the_config_describes_the_adapter_to_peft(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == "segtune/tiny"
    qkv = "backbone.vision_backbone.trunk.blocks.0.attn.qkv"
    assert qkv in config["target_modules"]
    # q, k and v, each of rank 4, form one block-structured matrix of rank 12.
    assert config["rank_pattern"][qkv] == 12
    assert config["alpha_pattern"][qkv] == 24.0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_model.safetensors", None),
        ("adapter_model.safetensors", b"\x00\x01damaged"),
        ("recipe.json", b"\x00\x01damaged"),
    ],
)
def test_a_missing_or_damaged_file_is_an_error(
    folder: Path, name: str, content: bytes | None
) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(AdapterError, match=r"cannot read the adapter.*Run the training again"):
        attach_adapter(build_model("tiny"), folder)
