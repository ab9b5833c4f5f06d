"""LoRA compared with PEFT and with attention written out by hand, in double precision."""

import copy
import importlib
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.testing import assert_close

from segtune.lora.inject import inject_lora, lora_parameters, merge_lora
from segtune.lora.layers import LoraSpec
from segtune.lora.state import load_lora_state_dict
from tests.lora_net import ALPHA, EXACT, HEADS, RANK, SPECS, WIDTH, net, randomize

pytestmark = pytest.mark.usefixtures("double_precision")

# torch.nn.parallel.replicate is also the name of a function there.
replication = importlib.import_module("torch.nn.parallel.replicate")


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


def test_dropout_acts_only_in_training() -> None:
    model, x = net(), torch.randn(2, 5, WIDTH)
    inject_lora(model, {"plain": LoraSpec(RANK, ALPHA, dropout=0.5)})
    randomize(model)
    model.train()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("projections", [("q", "v"), ("k",)])
def test_a_fused_projection_stays_in_the_dtype_of_autocast(projections: tuple[str, ...]) -> None:
    layer = nn.Linear(WIDTH, 3 * WIDTH).float()
    model = nn.Sequential(layer)
    inject_lora(model, {"0": LoraSpec(RANK, ALPHA, projections=projections)})
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.randn(2, WIDTH, dtype=torch.float32)).dtype == torch.bfloat16
