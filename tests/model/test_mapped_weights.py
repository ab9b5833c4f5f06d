"""Mapped weights: the same model as with weights that were copied, and none left out unnoticed."""

from pathlib import Path

import pytest
import torch

from segtune.core.errors import WeightsError
from segtune.dataset.coco import read_split
from segtune.lora.inject import inject_lora, merge_lora
from segtune.lora.layers import LoraSpec
from segtune.model.architecture import build_model
from segtune.model.mapped_weights import (
    forget_weights,
    in_groups,
    load_mapped,
    map_weights,
    unloaded_model,
)
from segtune.model.official_format import write_official
from segtune.model.parity import compare, inputs_of, largest, outputs_on, random_input
from segtune.model.weights import load_base_model
from tests.batches import randomize_lora
from tests.converted import write_converted
from tests.weight_files import same_bits

KEY = "transformer.encoder.layers.0.linear1"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.pt"
    state = build_model("tiny", seed=5).state_dict()
    state[f"{KEY}.weight"] = state[f"{KEY}.weight"].half()
    write_official(path, state, {})
    return path


def test_the_model_is_the_one_that_copies_give(base: Path) -> None:
    copied, mapped = load_base_model("tiny", str(base)), load_mapped("tiny", base)
    expected = copied.state_dict()
    assert mapped.state_dict().keys() == expected.keys()
    assert all(same_bits(value, expected[key]) for key, value in mapped.state_dict().items())
    one, other = (outputs_on(model, [random_input(96)]) for model in (copied, mapped))
    assert largest(compare(one, other)) == 0


def test_nothing_is_written_into_the_file(base: Path) -> None:
    before = base.read_bytes()
    model = load_mapped("tiny", base)
    inject_lora(model, {KEY: LoraSpec(2, 4.0)})
    randomize_lora(model)
    merge_lora(model)
    assert base.read_bytes() == before


def test_an_adapted_model_can_be_mapped_again(base: Path) -> None:
    model = load_mapped("tiny", base)
    inject_lora(model, {KEY: LoraSpec(2, 4.0)})
    randomize_lora(model, scale=0.3)
    inputs = [random_input(96)]
    before = outputs_on(model, inputs)
    again = outputs_on(model, inputs, lambda: map_weights(model, base))
    assert largest(compare(before, again)) == 0
    merge_lora(model)
    merged = outputs_on(model, inputs)
    assert 0 < largest(compare(before, merged)) < 1e-4


def test_a_weight_that_was_not_loaded_shows(base: Path) -> None:
    model = load_mapped("tiny", base)
    forget_weights(model)
    assert not compare(*[outputs_on(model, [random_input(96)])] * 2)["pred_logits"]["relative"] <= 1
    assert all(value.isnan().all() for value in unloaded_model("tiny").parameters())


def test_a_weight_that_is_not_finite_is_refused(base: Path) -> None:
    state = build_model("tiny").state_dict()
    state[f"{KEY}.bias"][3] = torch.nan
    write_official(base, state, {})
    with pytest.raises(WeightsError, match=f"1 with NaN or infinity: {KEY}.bias"):
        load_mapped("tiny", base)


def test_groups_have_every_key_once_and_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segtune.model.mapped_weights.GROUP", 10)
    groups = list(in_groups({"a": 4, "b": 6, "c": 1, "d": 30, "e": 2}))
    assert groups == [["a", "b"], ["c"], ["d"], ["e"]]


def test_real_images_are_prompted_with_their_classes(tmp_path: Path) -> None:
    split = read_split(write_converted(tmp_path, {"valid": 5}) / "valid.json")
    inputs = inputs_of(split, 96, 3)
    assert [(one.name, one.prompts) for one in inputs] == [
        ("valid/1.png", ("disc",)),
        ("valid/2.png", ("square",)),
        ("valid/4.png", ("disc",)),
    ]
    assert inputs[0].pixels.shape == (3, 96, 96)
    model = load_base_model("tiny", "default")
    together = outputs_on(model, inputs)
    for one, outputs in zip(inputs, together, strict=True):
        assert outputs["pred_masks"].shape[:2] == (1, 12)
        assert largest(compare([outputs], outputs_on(model, [one]))) < 1e-4
