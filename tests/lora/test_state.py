"""Adapters as a state dict: PEFT reads it, and only one that fits is loaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from segtune.core.atomic import write_json
from segtune.core.errors import AdapterError
from segtune.lora.adapter import specs_from_json, specs_to_json
from segtune.lora.inject import (
    inject_lora,
    merge_lora,
)
from segtune.lora.layers import LoraSpec
from segtune.lora.peft_format import peft_config
from segtune.lora.state import load_lora_state_dict, lora_state_dict
from tests.lora_net import ALPHA, EXACT, RANK, SPECS, WIDTH, net, randomize

pytestmark = pytest.mark.usefixtures("double_precision")


def read_by_peft(folder: Path, specs: dict[str, LoraSpec]) -> tuple[nn.Module, nn.Module]:
    """A net adapted and saved by segtune, and PEFT's model from the files."""
    ours = net()
    adapted = inject_lora(ours, specs)
    randomize(ours)
    save_file(lora_state_dict(ours), folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", peft_config(adapted, "net"))
    return ours, PeftModel.from_pretrained(net(), folder, autocast_adapter_dtype=False)


def test_peft_reads_the_files_of_segtune(tmp_path: Path) -> None:
    attention = LoraSpec(RANK, ALPHA, projections=("q", "v"))
    specs = {**SPECS, "attention": attention, "sequence_first": attention}
    ours, theirs = read_by_peft(tmp_path, specs)
    x = torch.randn(2, 5, WIDTH)
    assert_close(theirs(x), ours(x), **EXACT)


def test_peft_adds_the_output_projection_of_attention_twice(tmp_path: Path) -> None:
    # PEFT 0.21 does, so it gets other outputs from segtune's files; the docs say so.
    ours, theirs = read_by_peft(tmp_path, {"attention": SPECS["attention"]})
    base = net().attention.out_proj.weight
    merged = theirs.merge_and_unload().attention.out_proj.weight
    merge_lora(ours)
    once = ours.get_submodule("attention").out_proj.weight - base
    assert_close(merged - base, 2 * once, **EXACT)


def test_a_saved_adapter_can_be_loaded() -> None:
    model, other, x = net(), net(), torch.randn(2, 5, WIDTH)
    adapted = inject_lora(model, SPECS)
    randomize(model)
    inject_lora(other, specs_from_json(specs_to_json(adapted)), seed=9)
    load_lora_state_dict(other, lora_state_dict(model))
    assert_close(other(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(next(iter(s))), "missing: .*lora_A"),
        (lambda s: s.update(extra=torch.zeros(1)), r"unexpected: \['extra'\]"),
        (
            lambda s: s.update({k: v[:1] for k, v in s.items() if "plain.lora_A" in k}),
            "expects",
        ),
        (lambda s: s.update({k: v + 1 for k, v in s.items() if "qkv.lora_B" in k}), "mixes"),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error(
    change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    model = net()
    inject_lora(model, SPECS)
    state = lora_state_dict(model)
    change(state)
    with pytest.raises(AdapterError, match=message):
        load_lora_state_dict(model, state)
