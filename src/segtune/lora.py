"""Low-rank adaptation of linears, fused qkv linears and multi-head attention.

An adapted projection computes `W x + (alpha / rank) * B A x` with A (rank, in) and
B (out, rank); W is frozen, B starts at zero (Hu et al. 2021, "LoRA: Low-Rank Adaptation
of Large Language Models"). The queries, keys and values of a fused projection are adapted
separately. Adapted modules keep the names of the base parameters, so a base checkpoint
still fits, and the adapters are read and written in PEFT's layout.

This file knows torch and nothing of SAM 3.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtune.errors import AdapterError

PEFT_PREFIX = "base_model.model."
FUSED = ("q", "k", "v")  # row blocks of a fused projection, in this order


@dataclass(frozen=True)
class LoraSpec:
    """How to adapt the modules that one pattern names.

    Args:
        rank: rows of each A.
        alpha: the update is scaled by alpha / rank.
        dropout: probability, on the input of A while training.
        projections: of "q", "k", "v" for a linear that fuses them, and "out" too for
            attention; empty for a plain linear, which is adapted whole.
        rank_stabilised: scale by alpha / sqrt(rank) instead (Kalajdzievski 2023, "A Rank
            Stabilization Scaling Factor for Fine-Tuning with LoRA").
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    projections: tuple[str, ...] = ()
    rank_stabilised: bool = False

    @property
    def scale(self) -> float:
        """What B A x is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


class _Adapters(nn.Module):
    """The low-rank updates of one weight matrix, one per adapted block of its rows."""

    def __init__(self, weight: Tensor, spec: LoraSpec, blocks: tuple[str, ...]) -> None:
        super().__init__()
        self.scale, self.blocks = spec.scale, blocks
        self.dropout = nn.Dropout(spec.dropout)
        self.block_rows = weight.shape[0] // (1 if blocks == ("all",) else len(FUSED))
        for name in blocks:
            # new_empty and new_zeros keep the weight's device and dtype.
            down = weight.new_empty(spec.rank, weight.shape[1])
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            # Not in a ParameterDict, which nn.DataParallel leaves empty in its replicas.
            self.register_parameter(f"lora_A_{name}", nn.Parameter(down))
            up = weight.new_zeros(self.block_rows, spec.rank)
            self.register_parameter(f"lora_B_{name}", nn.Parameter(up))

    @property
    def lora_A(self) -> dict[str, Tensor]:  # noqa: N802
        """A of each adapted block: (rank, in)."""
        return {name: getattr(self, f"lora_A_{name}") for name in self.blocks}

    @property
    def lora_B(self) -> dict[str, Tensor]:  # noqa: N802
        """B of each adapted block: (block_rows, rank)."""
        return {name: getattr(self, f"lora_B_{name}") for name in self.blocks}

    def block(self, name: str, x: Tensor) -> Tensor:
        """The update of one block: (..., in) -> (..., block_rows)."""
        low_rank = F.linear(self.dropout(x), getattr(self, f"lora_A_{name}"))
        return F.linear(low_rank, getattr(self, f"lora_B_{name}")) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """The update of the whole matrix: (..., in) -> (..., out)."""
        if self.blocks == ("all",):
            return self.block("all", x)
        zeros = x.new_zeros(*x.shape[:-1], self.block_rows)
        parts = [self.block(name, x) if name in self.blocks else zeros for name in FUSED]
        return torch.cat(parts, dim=-1)

    def delta(self) -> Tensor:
        """The update as a matrix: (out, in)."""
        down, up = self.stacked()
        return up @ down * self.scale

    def stacked(self) -> tuple[Tensor, Tensor]:
        """All blocks as one A (n * rank, in) and one block-structured B (out, n * rank)."""
        down = torch.cat(list(self.lora_A.values()))
        if self.blocks == ("all",):
            return down, self.lora_B["all"]
        rank = len(down) // len(self.blocks)
        up = down.new_zeros(len(FUSED) * self.block_rows, len(down))
        for column, (name, matrix) in enumerate(self.lora_B.items()):
            up[self._rows(name), column * rank : (column + 1) * rank] = matrix
        return down, up

    def load_stacked(self, down: Tensor, up: Tensor, name: str) -> None:
        """Take the blocks apart again; what lies outside them must be zero."""
        mine_down, mine_up = self.stacked()
        if down.shape != mine_down.shape or up.shape != mine_up.shape:
            raise AdapterError(
                f"the adapter holds A {tuple(down.shape)} and B {tuple(up.shape)}, the "
                f"model expects {tuple(mine_down.shape)} and {tuple(mine_up.shape)}",
                record=name,
                remedy="Use the recipe that the adapter was trained with",
            )
        rank = len(down) // len(self.blocks)
        rest = up.detach().clone()
        with torch.no_grad():
            for column, block in enumerate(self.blocks):
                columns = slice(column * rank, (column + 1) * rank)
                self.lora_A[block].copy_(down[columns])
                self.lora_B[block].copy_(up[self._rows(block), columns])
                rest[self._rows(block), columns] = 0
        if rest.any():
            raise AdapterError(
                "the adapter mixes queries, keys and values, the model adapts them apart",
                record=name,
            )

    def _rows(self, name: str) -> slice:
        if name == "all":
            return slice(None)
        start = FUSED.index(name) * self.block_rows
        return slice(start, start + self.block_rows)


class LoraLinear(nn.Linear):
    """A linear, plain or fused qkv, with low-rank updates beside its frozen weight."""

    def __init__(self, base: nn.Linear, spec: LoraSpec) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self._replaced = (base,)  # in a tuple, so that it is no submodule
        self.lora = _Adapters(base.weight, spec, spec.projections or ("all",))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + self.lora(x)

    def merged(self) -> nn.Linear:
        """The base linear with the update added to its weight, in place."""
        (base,) = self._replaced
        with torch.no_grad():
            base.weight.add_(self.lora.delta())
        return base

    def unmerge(self) -> None:
        """Take the update off the base weight again."""
        with torch.no_grad():
            self.weight.sub_(self.lora.delta())


class LoraMultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention with low-rank updates of q, k, v and the output projection.

    It always runs scaled-dot-product attention and never returns attention weights.
    """

    def __init__(self, base: nn.MultiheadAttention, spec: LoraSpec) -> None:
        nn.Module.__init__(self)
        self.embed_dim, self.num_heads = base.embed_dim, base.num_heads
        self.head_dim, self.dropout = base.head_dim, base.dropout
        self.batch_first = base.batch_first
        self.in_proj_weight, self.in_proj_bias = base.in_proj_weight, base.in_proj_bias
        self._replaced = (base,)
        self.out_proj = base.out_proj
        if "out" in spec.projections:
            whole = replace(spec, projections=())
            self.out_proj = LoraLinear(base.out_proj, whole)  # type: ignore[assignment]
        fused = tuple(name for name in FUSED if name in spec.projections)
        self.lora = _Adapters(base.in_proj_weight, spec, fused) if fused else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Attend; arguments and shapes as in `nn.MultiheadAttention`, batched inputs only."""
        inputs = [query, key, value]
        if not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q, k, v = (self._project(i, x) for i, x in enumerate(inputs))  # (B, heads, L, d)
        mask = _additive_mask(attn_mask, key_padding_mask, q, k)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        output = self.out_proj(attended.transpose(1, 2).flatten(2))  # (B, L, E)
        if not self.batch_first:
            output = output.transpose(0, 1).contiguous()
        return output, None

    def _project(self, index: int, x: Tensor) -> Tensor:
        rows = slice(index * self.embed_dim, (index + 1) * self.embed_dim)
        bias = self.in_proj_bias[rows] if self.in_proj_bias is not None else None
        projected = F.linear(x, self.in_proj_weight[rows], bias)
        if self.lora is not None and FUSED[index] in self.lora.blocks:
            projected = projected + self.lora.block(FUSED[index], x)
        return projected.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def merged(self) -> nn.MultiheadAttention:
        """The base attention with the updates added to its weights, in place."""
        (base,) = self._replaced
        if isinstance(self.out_proj, LoraLinear):
            self.out_proj.merged()
        if self.lora is not None:
            with torch.no_grad():
                base.in_proj_weight.add_(self.lora.delta())
        return base

    def unmerge(self) -> None:
        """Take the updates off the base weights again."""
        if isinstance(self.out_proj, LoraLinear):
            self.out_proj.unmerge()
        if self.lora is not None:
            with torch.no_grad():
                self.in_proj_weight.sub_(self.lora.delta())


LoraModule = LoraLinear | LoraMultiheadAttention


def inject_lora(
    model: nn.Module, specs: Mapping[str, LoraSpec], seed: int = 0
) -> dict[str, LoraSpec]:
    """Freeze a model and adapt the modules that the patterns name, in place.

    Args:
        model: any module with linears or multi-head attention.
        specs: regular expression of whole qualified module names -> how to adapt them.
        seed: of the random A matrices; the global generator is not disturbed.

    Returns:
        What was adapted: qualified module name -> its spec.

    Raises:
        AdapterError: when a pattern matches nothing, matches a module that cannot be
            adapted, or a module that another pattern adapted.
    """
    model.requires_grad_(False)
    adapted: dict[str, LoraSpec] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for pattern, spec in specs.items():
            for name in _matching(model, pattern):
                if name in adapted:
                    raise AdapterError("adapted twice", record=name)
                _replace(model, name, _adapt(model.get_submodule(name), spec, name))
                adapted[name] = spec
    return adapted


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable adapter parameters by qualified name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if ".lora.lora_" in name}


def lora_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapters in PEFT's layout: one `lora_A.weight` and `lora_B.weight` per module.

    A module whose q, k and v are adapted apart has them stacked: A (n * rank, in) and
    B (out, n * rank) with the blocks on their own rows and columns.
    """
    state: dict[str, Tensor] = {}
    for name, module in _adapted_modules(model):
        for key, (down, up) in _peft_pairs(name, module).items():
            state[f"{PEFT_PREFIX}{key}.lora_A.weight"] = down.detach().cpu().clone()
            state[f"{PEFT_PREFIX}{key}.lora_B.weight"] = up.detach().cpu().clone()
    return state


def load_lora_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load adapters in PEFT's layout into a model that `inject_lora` has prepared.

    Raises:
        AdapterError: listing every missing and unexpected key, or a shape that differs.
    """
    expected = lora_state_dict(model)
    missing, unexpected = sorted(expected.keys() - state), sorted(state.keys() - expected)
    if missing or unexpected:
        raise AdapterError(
            f"the adapter does not fit the model; missing: {missing or 'none'}, "
            f"unexpected: {unexpected or 'none'}",
            remedy="Use the recipe that the adapter was trained with",
        )
    for name, module in _adapted_modules(model):
        _load_module(name, module, state)


def merge_lora(model: nn.Module) -> dict[str, LoraModule]:
    """Add every update to its base weight and put the base modules back, in place.

    Returns:
        The adapted modules that were taken out, by qualified name, for `unmerge_lora`.
    """
    taken_out = dict(_adapted_modules(model))
    for name, module in taken_out.items():
        _replace(model, name, module.merged())
    return taken_out


def unmerge_lora(model: nn.Module, taken_out: Mapping[str, LoraModule]) -> None:
    """Undo `merge_lora`, in place: the base weights come back but for rounding.

    Args:
        model: the merged model.
        taken_out: what `merge_lora` returned.
    """
    for name, module in taken_out.items():
        module.unmerge()
        _replace(model, name, module)


def count_parameters(
    model: nn.Module, group_of: Callable[[str], str] = lambda name: ""
) -> dict[str, tuple[int, int]]:
    """Trainable and all parameters: group -> (trainable, all), groups in the model's order.

    Args:
        model: adapted or not.
        group_of: the group that a parameter's qualified name belongs to.
    """
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        trainable, every = counts.get(group_of(name), (0, 0))
        size = parameter.numel()
        counts[group_of(name)] = (trainable + size * parameter.requires_grad, every + size)
    return counts


def specs_to_json(specs: Mapping[str, LoraSpec]) -> dict[str, dict[str, Any]]:
    """What was adapted, as plain values; `specs_from_json` reads it back."""
    return {name: asdict(spec) for name, spec in specs.items()}


def specs_from_json(values: Mapping[str, Mapping[str, Any]]) -> dict[str, LoraSpec]:
    """Exact patterns and specs of a recipe, ready for `inject_lora`."""
    return {
        re.escape(name): LoraSpec(**{**spec, "projections": tuple(spec["projections"])})
        for name, spec in values.items()
    }


def _additive_mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, k: Tensor
) -> Tensor | None:
    """One mask that broadcasts to (B, heads, L, S): -inf or False where not to look.

    In `nn.MultiheadAttention` a true entry of a boolean mask hides, in
    scaled-dot-product attention it shows.
    """
    batch, heads, length, _ = q.shape
    source = k.shape[2]
    if attn_mask is not None and attn_mask.dim() == 3:
        attn_mask = attn_mask.view(batch, heads, length, source)
    hidden = None
    if key_padding_mask is not None:
        hidden = key_padding_mask.view(batch, 1, 1, source)
    if attn_mask is None:
        return None if hidden is None else _shown(hidden, q)
    if hidden is None:
        return _shown(attn_mask, q)
    return _additive(attn_mask, q) + _additive(hidden, q)


def _shown(mask: Tensor, q: Tensor) -> Tensor:
    return ~mask if mask.dtype == torch.bool else mask.to(q.dtype)


def _additive(mask: Tensor, q: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(q.dtype)
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -math.inf)


def _matching(model: nn.Module, pattern: str) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    found = [name for name in names if re.fullmatch(pattern, name)]
    if not found:
        plain = re.sub(r"\\(\W)", r"\1", pattern)  # of an exact name, without its escapes
        near = difflib.get_close_matches(plain, names, n=3, cutoff=0.0)
        raise AdapterError(
            f"LoRA target {plain!r} matches no module",
            remedy=f"The nearest names are {', '.join(near)}",
        )
    return found


def _adapt(module: nn.Module, spec: LoraSpec, name: str) -> nn.Module:
    if isinstance(module, LoraLinear | LoraMultiheadAttention):
        raise AdapterError("adapted already", record=name)
    if isinstance(module, nn.MultiheadAttention):
        _require(set(spec.projections), {*FUSED, "out"}, name)
        if not spec.projections or module.in_proj_weight is None or module.bias_k is not None:
            raise AdapterError("this attention cannot be adapted", record=name)
        return LoraMultiheadAttention(module, spec)
    if isinstance(module, nn.Linear):
        _require(set(spec.projections), set(FUSED), name)
        if spec.projections and module.out_features % len(FUSED):
            raise AdapterError("this linear fuses no q, k and v", record=name)
        return LoraLinear(module, spec)
    raise AdapterError(f"a {type(module).__name__} cannot be adapted", record=name)


def _require(projections: set[str], allowed: set[str], name: str) -> None:
    if projections - allowed:
        raise AdapterError(
            f"unknown projections {sorted(projections - allowed)}",
            record=name,
            remedy=f"Choose from {sorted(allowed)}",
        )


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _adapted_modules(
    model: nn.Module,
) -> Iterator[tuple[str, LoraModule]]:
    attention = [m for m in model.modules() if isinstance(m, LoraMultiheadAttention)]
    inside_attention = {id(module.out_proj) for module in attention}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLinear | LoraMultiheadAttention):
            continue
        if id(module) not in inside_attention:
            yield name, module


def _peft_pairs(name: str, module: LoraModule) -> dict[str, tuple[Tensor, Tensor]]:
    """PEFT's names and (A, B) of one module; PEFT adapts all of an attention at one rank."""
    if isinstance(module, LoraLinear):
        return {name: module.lora.stacked()}
    out_proj, width = module.out_proj, module.embed_dim
    out = out_proj.lora.stacked() if isinstance(out_proj, LoraLinear) else None
    if module.lora is not None:
        fused = module.lora.stacked()
    else:
        assert out is not None
        fused = (torch.zeros_like(out[0]), out[1].new_zeros(len(FUSED) * width, len(out[0])))
    rank = len(fused[0])
    down, up = fused[0].new_zeros(rank, width), fused[1].new_zeros(width, rank)
    if out is not None:
        down[: len(out[0])], up[:, : len(out[0])] = out
    return {name: fused, f"{name}.base_layer.out_proj": (down, up)}


def _load_module(name: str, module: LoraModule, state: Mapping[str, Tensor]) -> None:
    def pair(key: str) -> tuple[Tensor, Tensor]:
        prefix = f"{PEFT_PREFIX}{key}.lora_"
        return state[f"{prefix}A.weight"], state[f"{prefix}B.weight"]

    if module.lora is not None:
        module.lora.load_stacked(*pair(name), name)
    if isinstance(module, LoraMultiheadAttention):
        down, up = pair(f"{name}.base_layer.out_proj")
        out = module.out_proj.lora if isinstance(module.out_proj, LoraLinear) else None
        rank = len(out.lora_A["all"]) if out else 0
        if down[rank:].any() or up[:, rank:].any():
            raise AdapterError("the adapter's output projection has a larger rank", record=name)
        if out:
            out.load_stacked(down[:rank], up[:, :rank], name)
