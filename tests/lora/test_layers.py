"""LoRA compared with PEFT and with attention written out by hand, in double precision."""

import copy
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from segtune.core.atomic import write_json
from segtune.core.errors import AdapterError
from segtune.lora.adapter import specs_from_json, specs_to_json
from segtune.lora.inject import (
    ParameterCount,
    count_parameters,
    inject_lora,
    lora_parameters,
    merge_lora,
    unmerge_lora,
)
from segtune.lora.layers import LoraSpec
from segtune.lora.peft_format import peft_config
from segtune.lora.state import load_lora_state_dict, lora_state_dict

# torch.nn.parallel.replicate is also the name of a function there.
replication = importlib.import_module("torch.nn.parallel.replicate")

WIDTH, HEADS, RANK, ALPHA = 16, 4, 3, 7.0
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(autouse=True)
def double_precision() -> object:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Net(nn.Module):
    """A plain linear, a fused qkv and attention in both layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(WIDTH, 10)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.sequence_first = nn.MultiheadAttention(WIDTH, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        attended = self.attention(q, k, v)[0]
        transposed = attended.transpose(0, 1)
        return self.plain(self.sequence_first(transposed, transposed, transposed)[0])


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def randomize(model: nn.Module) -> None:
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.1)


SPECS = {
    "plain": LoraSpec(RANK, ALPHA),
    "qkv": LoraSpec(RANK, ALPHA, projections=("q", "v")),
    "attention": LoraSpec(RANK, ALPHA, projections=("q", "k", "v", "out")),
    "sequence_first": LoraSpec(2 * RANK, ALPHA, projections=("v", "out")),
}


def test_fresh_adapters_change_nothing() -> None:
    model, x = net(), torch.randn(2, 5, WIDTH)
    before = model(x)
    inject_lora(model, SPECS)
    assert_close(model(x), before, **EXACT)


@pytest.mark.parametrize("projections", [("q",), ("q", "v"), ("k", "out"), ("q", "k", "v", "out")])
def test_attention_equals_three_explicit_projections(projections: tuple[str, ...]) -> None:
    attention = nn.ModuleDict({"a": nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)})
    base = copy.deepcopy(attention["a"])
    inject_lora(attention, {"a": LoraSpec(RANK, ALPHA, projections=projections)})
    randomize(attention)
    q, kv = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH)
    lora = attention["a"]

    def project(name: str, rows: slice, x: Tensor) -> Tensor:
        y = x @ base.in_proj_weight[rows].T + base.in_proj_bias[rows]
        if name in projections:
            y = y + ALPHA / RANK * (x @ lora.lora.lora_A[name].T @ lora.lora.lora_B[name].T)
        return y.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)

    rows = [slice(i * WIDTH, (i + 1) * WIDTH) for i in range(3)]
    queries = project("q", rows[0], q)
    keys, values = project("k", rows[1], kv), project("v", rows[2], kv)
    weights = (queries @ keys.mT / (WIDTH // HEADS) ** 0.5).softmax(-1)
    heads = (weights @ values).transpose(1, 2).flatten(2)
    expected = heads @ base.out_proj.weight.T + base.out_proj.bias
    if "out" in projections:
        out = lora.out_proj.lora
        expected = expected + ALPHA / RANK * (heads @ out.lora_A["all"].T @ out.lora_B["all"].T)
    output, no_weights = lora(q, kv, kv)
    assert no_weights is None
    assert output.is_contiguous()
    assert_close(output, expected, **EXACT)


def boolean(shape: tuple[int, ...]) -> Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) > 0.6
    mask[..., 0] = False  # every query sees at least one key
    return mask


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "masks",
    [
        dict,
        lambda: {"attn_mask": boolean((5, 7))},
        lambda: {"attn_mask": torch.randn(5, 7)},
        lambda: {"attn_mask": torch.randn(2 * HEADS, 5, 7)},
        lambda: {"key_padding_mask": boolean((2, 7))},
        lambda: {"attn_mask": torch.randn(5, 7), "key_padding_mask": boolean((2, 7))},
        lambda: {"attn_mask": boolean((5, 7)), "key_padding_mask": boolean((2, 7))},
    ],
)
def test_masks_have_the_meaning_that_they_have_in_torch(
    masks: Callable[[], dict[str, Tensor]], batch_first: bool
) -> None:
    holder = nn.ModuleDict({"a": nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)})
    stock = copy.deepcopy(holder["a"])
    inject_lora(holder, {"a": LoraSpec(RANK, ALPHA, projections=("q", "k", "v", "out"))})
    query, source = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH)
    if not batch_first:
        query, source = query.transpose(0, 1), source.transpose(0, 1)
    options = masks()
    with warnings.catch_warnings():
        # torch warns of a boolean padding mask with an additive mask; SAM 3 combines them.
        warnings.simplefilter("ignore")
        expected = stock(query, source, source, need_weights=False, **options)[0]
    output = holder["a"](query, source, source, **options)[0]
    assert output.is_contiguous()
    assert_close(output, expected, **EXACT)


def test_attention_stays_scaled_dot_product_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = net(), []
    inject_lora(model, SPECS)
    stock = F.scaled_dot_product_attention

    def counted(*args: object, **kwargs: object) -> Tensor:
        calls.append(1)
        return stock(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    model(torch.randn(2, 5, WIDTH))
    assert len(calls) == 2


def peft_pair(targets: list[str], specs: dict[str, LoraSpec]) -> tuple[nn.Module, nn.Module]:
    """The same net adapted by PEFT and by segtune, with the same random adapters."""
    config = LoraConfig(
        r=RANK, lora_alpha=int(ALPHA), target_modules=targets, init_lora_weights=False
    )
    theirs = get_peft_model(net(), config)
    ours = net()
    inject_lora(ours, specs)
    state = {
        name.replace(".default", ""): value
        for name, value in theirs.state_dict().items()
        if "lora_" in name
    }
    load_lora_state_dict(ours, state)
    return theirs, ours


def test_a_linear_equals_pefts() -> None:
    theirs, ours = peft_pair(["plain"], {"plain": SPECS["plain"]})
    x = torch.randn(2, 5, WIDTH)
    assert_close(ours(x), theirs(x), **EXACT)
    theirs(x).square().sum().backward()
    ours(x).square().sum().backward()
    layer = theirs.base_model.model.plain
    own = ours.get_submodule("plain").lora
    assert_close(own.lora_A["all"].grad, layer.lora_A["default"].weight.grad, **EXACT)
    assert_close(own.lora_B["all"].grad, layer.lora_B["default"].weight.grad, **EXACT)
    merged = theirs.merge_and_unload()
    merge_lora(ours)
    assert_close(ours.get_submodule("plain").weight, merged.plain.weight, **EXACT)


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


@pytest.mark.parametrize(("stabilized", "scale"), [(False, 7 / 9), (True, 7 / 3)])
def test_the_update_is_scaled_by_the_rank_or_its_root(stabilized: bool, scale: float) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, 10))
    base = model[0].weight.clone()
    inject_lora(model, {"0": LoraSpec(9, 7.0, rank_stabilized=stabilized)})
    randomize(model)
    lora = model[0].lora
    expected = base + scale * lora.lora_B["all"] @ lora.lora_A["all"]
    merge_lora(model)
    assert_close(model[0].weight, expected, **EXACT)


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


def test_nn_data_parallel_reaches_every_adapter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # nn.DataParallel needs GPUs only for broadcasting; the replication is torch's own.
    monkeypatch.setattr(
        replication,
        "_broadcast_coalesced_reshape",
        lambda tensors, devices, detach=False: [[t * 1 for t in tensors] for _ in devices],
    )
    model, x = net(), torch.randn(4, 5, WIDTH)
    inject_lora(model, SPECS)
    randomize(model)
    model(x).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in lora_parameters(model).items()}
    model.zero_grad()
    replicas = replication.replicate(model, [0, 1])
    parts = [replica(part) for replica, part in zip(replicas, x.split(2), strict=True)]
    assert_close(torch.cat(parts, dim=1), model(x), **EXACT)
    torch.cat(parts, dim=1).square().sum().backward()
    for name, parameter in lora_parameters(model).items():
        assert_close(parameter.grad, expected[name], **EXACT)


def test_a_saved_adapter_can_be_loaded() -> None:
    model, other, x = net(), net(), torch.randn(2, 5, WIDTH)
    adapted = inject_lora(model, SPECS)
    randomize(model)
    inject_lora(other, specs_from_json(specs_to_json(adapted)), seed=9)
    load_lora_state_dict(other, lora_state_dict(model))
    assert_close(other(x), model(x), rtol=0, atol=0)


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


def test_dropout_acts_only_in_training() -> None:
    model, x = net(), torch.randn(2, 5, WIDTH)
    inject_lora(model, {"plain": LoraSpec(RANK, ALPHA, dropout=0.5)})
    randomize(model)
    model.train()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


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
