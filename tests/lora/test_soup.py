"""Soups: the update of the combined adapter is the weighted sum, also for PEFT."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from segtune.core.atomic import write_json
from segtune.core.errors import AdapterError
from segtune.lora.inject import inject_lora, lora_parameters, merge_lora, weight_updates
from segtune.lora.layers import LoraSpec
from segtune.lora.peft_format import peft_config
from segtune.lora.soup import Part, weighted_sum
from segtune.lora.state import load_lora_state_dict
from tests.lora_net import ALPHA, EXACT, RANK, SPECS, WIDTH, net

pytestmark = pytest.mark.usefixtures("double_precision")

WEIGHTS = (0.3, -1.7, 0.5)
OTHERS = {
    "qkv": LoraSpec(1, 5.0, projections=("k", "v"), rank_stabilized=True),
    "attention": LoraSpec(RANK, ALPHA, projections=("out", "v")),
}
WITHOUT_OUT = {
    "plain": LoraSpec(2, 3.0),
    "attention": LoraSpec(5, 1.0, projections=("k", "v")),
    "sequence_first": LoraSpec(1, 2.0, projections=("q",)),
}


def part(specs: dict[str, LoraSpec], weight: float, seed: int) -> tuple[Part, dict[str, Tensor]]:
    """An adapter with random values, and its updates."""
    model = net()
    inject_lora(model, specs)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter.normal_()
    values = {name: p.detach() for name, p in lora_parameters(model).items()}
    updates = {name: update().detach() for name, update in weight_updates(model).items()}
    return Part(specs, values, weight), updates


def combined(*specs: dict[str, LoraSpec]) -> tuple[list[Part], dict[str, Tensor]]:
    """Adapters, and what the weights of a net should be with all of them."""
    made = [part(s, w, n) for n, (s, w) in enumerate(zip(specs, WEIGHTS, strict=False))]
    expected = net().state_dict()
    for one, updates in made:
        for name, update in updates.items():
            expected[name] = expected[name] + one.weight * update
    return [one for one, _ in made], expected


def test_the_update_is_the_weighted_sum() -> None:
    parts, expected = combined(SPECS, OTHERS, WITHOUT_OUT)
    specs, state = weighted_sum(net(), parts)
    assert specs["qkv"].rank == RANK + 1
    assert specs["qkv"].projections == ("q", "k", "v")
    model = net()
    inject_lora(model, specs)
    load_lora_state_dict(model, state)
    x = torch.randn(2, 5, WIDTH)
    adapted = model(x)
    merge_lora(model)
    assert_close(model.state_dict(), expected, **EXACT)
    assert_close(adapted, model(x), **EXACT)


def test_peft_computes_the_same_sum(tmp_path: Path) -> None:
    specs_one = {**SPECS, "attention": LoraSpec(RANK, ALPHA, projections=("q", "v"))}
    del specs_one["sequence_first"]
    parts, expected = combined(specs_one, WITHOUT_OUT)
    specs, state = weighted_sum(net(), parts)
    save_file(state, tmp_path / "adapter_model.safetensors")
    write_json(tmp_path / "adapter_config.json", peft_config(specs, "net"))
    theirs = PeftModel.from_pretrained(net(), tmp_path, autocast_adapter_dtype=False)
    assert_close(theirs.merge_and_unload().state_dict(), expected, **EXACT)


def test_one_adapter_stays_what_it_is() -> None:
    (one,), _ = combined(SPECS)
    specs, state = weighted_sum(net(), [replace(one, weight=1.0)])
    assert specs == SPECS
    model = net()
    inject_lora(model, specs)
    load_lora_state_dict(model, state)
    for name, value in lora_parameters(model).items():
        assert torch.equal(value, one.parameters[name]), name


def test_the_model_is_not_adapted_afterward() -> None:
    parts, _ = combined(SPECS, OTHERS)
    model = net()
    weighted_sum(model, parts)
    assert not lora_parameters(model)
    assert_close(model.state_dict(), net().state_dict(), rtol=0, atol=0)


def test_whole_and_in_blocks_do_not_mix() -> None:
    parts, _ = combined({"qkv": LoraSpec(2, 2.0)}, {"qkv": SPECS["qkv"]})
    with pytest.raises(AdapterError, match="qkv: adapted whole by one adapter and in blocks"):
        weighted_sum(net(), parts)
