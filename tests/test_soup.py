"""Soups through the command: made of files, merged like any other adapter."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from segtune.lora.adapter import save_adapter
from segtune.lora.inject import inject_lora, weight_updates
from segtune.lora.layers import LoraSpec
from segtune.lora.state import lora_state_dict
from segtune.model.architecture import build_model
from segtune.model.official_format import read_official
from segtune.soup import main
from tests.batches import adapted_tiny, randomize_lora
from tests.merge_runs import RECIPE, merge, save
from tests.weight_files import correct_digest

SMALL = {
    "transformer.encoder.layers.0.linear1": LoraSpec(2, 3.0),
    "backbone.vision_backbone.trunk.blocks.1.attn.qkv": LoraSpec(3, 3.0, projections=("k",)),
}


@pytest.fixture
def adapters(tmp_path: Path) -> list[str]:
    """Two trainings on one base, of different ranks and modules."""
    save(tmp_path / "one", "random:0")
    model = build_model("tiny")
    inject_lora(model, SMALL)
    randomize_lora(model, scale=0.2)
    recipe = {**RECIPE, "weights": "random:0", "settings": {"select_by": "cgF1"}}
    state = lora_state_dict(model)
    save_adapter(tmp_path / "two", state, specs=SMALL, base_model="segtune/tiny", recipe=recipe)
    return [str(tmp_path / name) for name in ("one", "two")]


def soup(tmp_path: Path, adapters: list[str], *weights: float) -> Path:
    out = tmp_path / "adapter"
    options = ["--weights-of", *map(str, weights)] if weights else []
    main(["--adapters", *adapters, *options, "--out", str(out)])
    return out


def refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], adapters: list[str], *weights: float
) -> str:
    with pytest.raises(SystemExit) as raised:
        soup(tmp_path, adapters, *weights)
    assert raised.value.code == 1
    assert not (tmp_path / "adapter").exists()
    return capsys.readouterr().err


def edit(adapter: str, changes: Mapping[str, Any]) -> None:
    path = Path(adapter) / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_merged_soup_has_the_sum_of_the_updates(tmp_path: Path, adapters: list[str]) -> None:
    soup(tmp_path, adapters, 0.25, 2.0)
    merged = read_official(merge(tmp_path) / "sam3.pt").detector
    base = build_model("tiny").named_parameters()
    expected = {key: value.detach().double() for key, value in base}
    small = build_model("tiny")
    inject_lora(small, SMALL)
    randomize_lora(small, scale=0.2)
    for weight, model in ((0.25, adapted_tiny()[0]), (2.0, small)):
        for key, update in weight_updates(model).items():
            expected[key] = expected[key] + weight * update().detach()
    for key, value in expected.items():
        torch.testing.assert_close(merged[key].double(), value, rtol=1e-5, atol=1e-6)


def test_without_weights_it_is_the_mean(tmp_path: Path, adapters: list[str]) -> None:
    same = [adapters[0], adapters[0]]
    soup(tmp_path, same)
    mean = read_official(merge(tmp_path) / "sam3.pt").detector
    shutil.rmtree(tmp_path / "adapter")
    shutil.copytree(adapters[0], tmp_path / "adapter")
    one = read_official(merge(tmp_path) / "sam3.pt").detector
    for key, value in one.items():
        torch.testing.assert_close(mean[key], value, rtol=1e-5, atol=1e-6)


def test_a_soup_of_one_adapter_is_that_adapter(tmp_path: Path, adapters: list[str]) -> None:
    out = soup(tmp_path, adapters[1:])
    before = load_file(Path(adapters[1]) / "adapter_model.safetensors")
    after = load_file(out / "adapter_model.safetensors")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_model_card_names_the_trainings(tmp_path: Path, adapters: list[str]) -> None:
    soup(tmp_path, adapters, 0.25, 2.0)
    (tmp_path / "adapter").rename(tmp_path / "first")
    soup(tmp_path, [str(tmp_path / "first"), adapters[1]], 2.0, 0.125)
    card = (merge(tmp_path) / "MODEL_CARD.md").read_text()
    training = "on the valid split: 0.5000 after epoch 2; 0.1000 before training"
    for line in ("0.5 {}: AP", "4 {}: cgF1", "0.125 {}: cgF1"):
        assert f"- {line.format('times the update of a training')} {training}" in card


def test_the_weight_of_a_soup_of_one_is_in_the_model_card(
    tmp_path: Path, adapters: list[str]
) -> None:
    soup(tmp_path, adapters[1:], 0.5)
    card = (merge(tmp_path) / "MODEL_CARD.md").read_text()
    assert "- 0.5 times the update of a training: cgF1 on the valid split" in card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "random:1"}, "trained on model 'tiny' with weights 'random:1', not on"),
        ({"model": "full"}, "trained on model 'full'"),
    ],
)
def test_adapters_of_different_bases_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    adapters: list[str],
    changes: dict[str, Any],
    message: str,
) -> None:
    edit(adapters[1], changes)
    assert message in refused(tmp_path, capsys, adapters)


def test_bases_are_compared_by_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], adapters: list[str]
) -> None:
    edit(adapters[0], {"weights": "a.pt", "weights_sha256": "1" * 16})
    edit(adapters[1], {"weights": "a.pt", "weights_sha256": "2" * 16})
    assert "whose content is another" in refused(tmp_path, capsys, adapters)
    edit(adapters[1], {"weights": "moved/b.pt", "weights_sha256": "1" * 16})
    recipe = json.loads((soup(tmp_path, adapters) / "recipe.json").read_text())
    assert (recipe["weights"], recipe["weights_sha256"]) == ("a.pt", "1" * 16)


def test_a_soup_of_models_that_see_tiles_sees_tiles(tmp_path: Path, adapters: list[str]) -> None:
    assert json.loads((soup(tmp_path, adapters) / "recipe.json").read_text())["tiles"] is None
    for adapter in adapters:
        edit(adapter, {"tiles": {"side": 640, "overlap": 0.3}})
    recipe = json.loads((soup(tmp_path, adapters) / "recipe.json").read_text())
    assert recipe["tiles"] == {"side": 640, "overlap": 0.3}
    edit(adapters[1], {"tiles": None})
    assert json.loads((soup(tmp_path, adapters) / "recipe.json").read_text())["tiles"] is None


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "--weights-of: 1 weights for 2 adapters"),
        ((0.0, 1.0), "--weights-of: a weight is zero"),
        ((float("nan"), 1.0), "--weights-of: a weight is zero, or not a finite number"),
    ],
)
def test_weights_that_are_none_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    adapters: list[str],
    weights: tuple[float, ...],
    message: str,
) -> None:
    assert message in refused(tmp_path, capsys, adapters, *weights)


def test_an_adapter_that_names_no_base_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], adapters: list[str]
) -> None:
    (Path(adapters[1]) / "recipe.json").unlink()
    assert "has no recipe.json" in refused(tmp_path, capsys, adapters)


def test_a_damaged_adapter_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], adapters: list[str]
) -> None:
    path = Path(adapters[1]) / "adapter_model.safetensors"
    tensors = load_file(path)
    key = next(iter(tensors))
    save_file({**tensors, key: tensors[key] * torch.nan}, path)
    assert "damaged: its checksum" in refused(tmp_path, capsys, adapters)
    correct_digest(Path(adapters[1]))
    assert "NaN or infinity" in refused(tmp_path, capsys, adapters)
