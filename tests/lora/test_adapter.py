"""Adapters on disk: they are restored completely, or the error says why not."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segtune.core.errors import AdapterError
from segtune.core.setting_problems import RENAMED
from segtune.lora.adapter import attach_adapter, save_adapter
from segtune.lora.inject import lora_parameters
from segtune.lora.state import lora_state_dict
from segtune.model.architecture import build_model
from tests.batches import adapted_tiny
from tests.lora_net import net
from tests.weight_files import correct_digest, write_adapter


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


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """An adapter of a small net."""
    write_adapter(tmp_path)
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


def edit_values(folder: Path, **changes: Any) -> None:
    """Change the first adapted module of a recipe."""
    recipe = json.loads((folder / "recipe.json").read_text())
    first = next(iter(recipe["adapted"]))
    recipe["adapted"][first] |= changes
    (folder / "recipe.json").write_text(json.dumps(recipe))


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 0},
        {"rank": -4},
        {"rank": True},
        {"rank": 4.5},
        {"rank": "4"},
        {"alpha": -1.0},
        {"alpha": 0},
        {"alpha": float("nan")},
        {"alpha": float("inf")},
        {"alpha": 10**400},
        {"alpha": True},
        {"dropout": 1.5},
        {"dropout": -0.1},
        {"dropout": None},
        {"projections": ["q", "q"]},
        {"projections": ["x"]},
        {"projections": "q"},
        {"rank_stabilized": 1},
        {"surprise": 1},
    ],
)
def test_a_spec_out_of_range_is_an_error(small: Path, changes: dict[str, Any]) -> None:
    edit_values(small, **changes)
    with pytest.raises(AdapterError, match=r"recipe\.json: not the recipe of an adapter") as raised:
        attach_adapter(net(), small)
    assert next(iter(changes)) in str(raised.value) or "projection" in str(raised.value)


def test_a_huge_rank_takes_no_memory(small: Path) -> None:
    edit_values(small, rank=10**9)
    model = net()
    with pytest.raises(AdapterError, match=r"\(\d+, \d+\) instead of \(\d{10}, "):
        attach_adapter(model, small)
    assert not lora_parameters(model)


@pytest.mark.parametrize("adapted", [{}, [], None, {"a": 3}, {"a": None}, 7, "all"])
def test_a_recipe_that_adapts_nothing_is_an_error(small: Path, adapted: object) -> None:
    recipe = json.loads((small / "recipe.json").read_text())
    (small / "recipe.json").write_text(json.dumps({**recipe, "adapted": adapted}))
    with pytest.raises(AdapterError, match=r"recipe\.json: not the recipe of an adapter"):
        attach_adapter(net(), small)


def test_names_of_a_recipe_are_not_patterns(small: Path) -> None:
    recipe = json.loads((small / "recipe.json").read_text())
    (name, spec), *rest = recipe["adapted"].items()
    for other in (f"{name}.?", f"{name[:-1]}.", "(a+)+" * 20, ".*", "\x1b[2J" + "a" * 10_000):
        changed = {**recipe, "adapted": {other: spec, **dict(rest)}}
        (small / "recipe.json").write_text(json.dumps(changed))
        with pytest.raises(AdapterError, match="the model has no such module") as raised:
            attach_adapter(net(), small)
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < 1000


def test_a_flipped_bit_is_noticed(small: Path) -> None:
    path = small / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(AdapterError, match=r"safetensors: damaged: its checksum"):
        attach_adapter(net(), small)


def test_an_adapter_of_an_earlier_version_has_no_checksum(small: Path) -> None:
    edit_recipe(small, '"adapter_sha256"', '"other"')
    assert attach_adapter(net(), small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.fill_(float("nan")), "NaN or infinity"),
        (lambda t: t.fill_(float("inf")), "NaN or infinity"),
        (lambda t: t.int(), "numbers of type I32 are not an adapter's"),
        (lambda t: t[:1].clone(), "of another shape"),
    ],
)
def test_unusable_tensors_are_an_error(
    small: Path, change: Callable[[Tensor], Tensor], message: str
) -> None:
    path = small / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({**tensors, name: change(tensors[name])}, path)
    correct_digest(small)
    with pytest.raises(AdapterError, match=message) as raised:
        attach_adapter(net(), small)
    assert name in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", ["recipe.json", "adapter_model.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(small: Path, name: str) -> None:
    (small / name).unlink()
    os.mkfifo(small / name)
    with pytest.raises(AdapterError, match="it is a pipe"):
        attach_adapter(net(), small)


def test_a_recipe_nested_without_end_is_an_error(small: Path) -> None:
    (small / "recipe.json").write_text('{"adapted":' * 100_000)
    with pytest.raises(AdapterError, match="nested too deeply"):
        attach_adapter(net(), small)
