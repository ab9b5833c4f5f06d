"""Adapters injected, counted, merged and removed, in double precision."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from segtune.core.errors import AdapterError
from segtune.lora.inject import (
    ParameterCount,
    count_parameters,
    inject_lora,
    lora_parameters,
    merge_lora,
    remove_lora,
    set_strength,
    unmerge_lora,
    weight_updates,
)
from segtune.lora.layers import LoraSpec
from tests.lora_net import ALPHA, EXACT, RANK, SPECS, WIDTH, net, randomize

pytestmark = pytest.mark.usefixtures("double_precision")


def test_merging_preserves_the_outputs_and_removes_the_adapters() -> None:
    model, x = net(), torch.randn(2, 5, WIDTH)
    names = {name: type(module) for name, module in model.named_modules()}
    keys = model.state_dict().keys()
    inject_lora(model, SPECS)
    randomize(model)
    adapted = model(x)
    merge_lora(model)
    assert_close(model(x), adapted, **EXACT)
    assert {name: type(module) for name, module in model.named_modules()} == names
    assert model.state_dict().keys() == keys


def test_unmerging_restores_base_weights_and_adapters() -> None:
    model, x = net(), torch.randn(2, 5, WIDTH)
    base = {name: p.clone() for name, p in model.named_parameters()}
    inject_lora(model, SPECS)
    randomize(model)
    adapted = model(x)
    removed = merge_lora(model)
    assert not lora_parameters(model)
    unmerge_lora(model, removed)
    assert_close(model(x), adapted, **EXACT)
    after = dict(model.named_parameters())
    for name, value in base.items():
        assert_close(after[name], value, **EXACT)
    assert all(p.requires_grad for p in lora_parameters(model).values())


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0, 1.3])
def test_the_strength_multiplies_every_update(strength: float) -> None:
    model, x = net(), torch.randn(2, 5, WIDTH)
    base = {name: p.clone() for name, p in model.named_parameters()}
    inject_lora(model, SPECS)
    randomize(model)
    whole = {name: update() for name, update in weight_updates(model).items()}
    assert {name.partition(".")[0] for name in whole} == SPECS.keys()
    set_strength(model, 0.9)  # the last one counts
    set_strength(model, strength)
    adapted = model(x)
    merge_lora(model)
    assert_close(adapted, model(x), **EXACT)
    for name, value in model.named_parameters():
        assert_close(value, base[name] + strength * whole.get(name, 0 * value), **EXACT)


def test_removing_adapters_leaves_the_base() -> None:
    model, x = net(), torch.randn(2, 5, WIDTH)
    names = {name: type(module) for name, module in model.named_modules()}
    before = model(x)
    inject_lora(model, SPECS)
    randomize(model)
    assert (model(x) - before).abs().max() > 1e-3
    remove_lora(model)
    assert_close(model(x), before, **EXACT)
    assert {name: type(module) for name, module in model.named_modules()} == names


def test_parameters_are_counted_by_group() -> None:
    model = net()
    inject_lora(model, {"plain": LoraSpec(RANK, ALPHA), "qkv": SPECS["qkv"]})
    counts = count_parameters(model, lambda name: name.partition(".")[0])
    plain = WIDTH * 10 + 10
    adapters = RANK * (WIDTH + 10)
    assert counts["plain"] == ParameterCount(trainable=adapters, total=plain + adapters)
    assert counts["qkv"].trainable == 2 * RANK * 2 * WIDTH
    assert counts["attention"].trainable == 0
    trainable = sum(count.trainable for count in counts.values())
    total = sum(p.numel() for p in model.parameters())
    assert count_parameters(model) == {"": ParameterCount(trainable, total)}


def test_dinov2_base_has_the_published_number_of_lora_parameters() -> None:
    from transformers import Dinov2Config, Dinov2Model

    with torch.device("meta"):
        model = Dinov2Model(Dinov2Config())
    pattern = r"encoder\.layer\.\d+\.attention\.(q|k|v)_proj"
    adapted = inject_lora(model, {pattern: LoraSpec(8, 16.0)})
    assert len(adapted) == 12 * 3
    assert count_parameters(model)[""].trainable == 442_368


def test_one_step_moves_adapters_and_no_base_weight() -> None:
    model = net()
    base = {name: p.clone() for name, p in model.named_parameters()}
    inject_lora(model, SPECS)
    optimizer = torch.optim.SGD(lora_parameters(model).values(), lr=0.1)
    model(torch.randn(2, 5, WIDTH)).square().sum().backward()
    for name, parameter in lora_parameters(model).items():
        if "lora_B" in name:
            assert parameter.grad is not None and parameter.grad.any(), name
    optimizer.step()
    after = dict(model.named_parameters())
    for name, value in base.items():
        assert torch.equal(after[name], value)
        assert not after[name].requires_grad


def test_the_seed_determines_the_adapters_and_the_global_generator_is_untouched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    models = [net() for _ in range(3)]
    torch.manual_seed(5)
    for model, seed in zip(models, (1, 1, 2), strict=True):
        inject_lora(model, SPECS, seed=seed)
    assert torch.equal(torch.rand(1), expected)
    one, same, other = (next(iter(lora_parameters(model).values())) for model in models)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            {"plainn": LoraSpec(RANK, ALPHA)},
            "'plainn' matches no module.*closest names are plain",
        ),
        ({"": LoraSpec(RANK, ALPHA)}, "matches no module"),
        (
            {"plain": LoraSpec(RANK, ALPHA), "pl.*": LoraSpec(RANK, ALPHA)},
            "plain: matched by two LoRA targets",
        ),
        ({"plain": LoraSpec(RANK, ALPHA, projections=("q",))}, "does not fuse q, k and v"),
        (
            {"qkv": LoraSpec(RANK, ALPHA, projections=("out",))},
            r"unknown projections \['out'\]",
        ),
        ({"attention": LoraSpec(RANK, ALPHA)}, "cannot be adapted"),
        ({"attention": LoraSpec(RANK, ALPHA, projections=("mlp",))}, "unknown projections"),
    ],
)
def test_a_target_that_does_not_fit_is_an_error(specs: dict[str, LoraSpec], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        inject_lora(net(), specs)


def test_adapting_a_convolution_is_an_error() -> None:
    with pytest.raises(AdapterError, match="a Conv2d cannot be adapted"):
        inject_lora(nn.Sequential(nn.Conv2d(3, 3, 1)), {"0": LoraSpec(RANK, ALPHA)})
