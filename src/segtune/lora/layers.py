"""Low-rank adaptation (LoRA) of linear layers, fused qkv layers and multi-head attention.

An adapted projection adds a low-rank update to its frozen weight (Hu et al. 2021, "LoRA:
Low-Rank Adaptation of Large Language Models"):

    x (..., in) ──┬── W (out, in), frozen ────────────────────────────── + ── y (..., out)
                  └── dropout ── A (rank, in) ── B (out, rank) ── scale ─┘

B starts at zero, so that a fresh adapter changes nothing; scale is alpha / rank.

A fused projection holds queries, keys and values as row blocks of one weight, w rows each.
An adapted block has an A and a B of its own, and a block without them gets no update. Written
as one A and one B, with q and v adapted:

     W (3 w, in)       update (3 w, in)      B (3 w, 2 rank)     A (2 rank, in)
    q [ W_q ]         [ B_q A_q ]           [ B_q   0  ]        [ A_q ]
    k [ W_k ]    +    [    0    ]     =     [  0    0  ]   @    [ A_v ]
    v [ W_v ]         [ B_v A_v ]           [  0   B_v ]

Adapted modules keep the names of their base parameters, so a base checkpoint still loads.

This file knows torch and nothing of SAM 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtune.core.errors import AdapterError
from segtune.lora.adapted_linear import Update, adapted_linear

FUSED = ("q", "k", "v")  # row blocks of a fused projection, in this order


@dataclass(frozen=True)
class LoraSpec:
    """How to adapt the modules that one pattern names.

    Args:
        rank: rows of each A.
        alpha: the update is scaled by alpha / rank.
        dropout: probability of dropping an input of A, during training.
        projections: some of "q", "k" and "v" for a linear layer that fuses them, and of these
            and "out" for attention; empty for a plain linear layer, which is adapted whole.
        rank_stabilized: scale by alpha / sqrt(rank) instead (Kalajdzievski 2023, "A Rank
            Stabilization Scaling Factor for Fine-Tuning with LoRA").
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    projections: tuple[str, ...] = ()
    rank_stabilized: bool = False

    @property
    def scale(self) -> float:
        """The factor by which B A x is multiplied."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


class _Adapters(nn.Module):
    """The low-rank updates of one weight matrix, one per adapted block of its rows."""

    def __init__(self, weight: Tensor, spec: LoraSpec, blocks: tuple[str, ...]) -> None:
        super().__init__()
        self.scale, self.blocks = spec.scale, blocks
        self.strength = 1.0  # see `segtune.lora.inject.set_strength`
        self.dropout = nn.Dropout(spec.dropout)
        self.layout = blocks if blocks == ("all",) else FUSED
        self.block_rows = weight.shape[0] // len(self.layout)
        for name in blocks:
            # new_empty and new_zeros keep the device and dtype of the weight.
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

    def projected(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, blocks: Sequence[str] | None = None
    ) -> Tensor:
        """The adapted projection of x (n, in): (n, out).

        Args:
            x: the input.
            weight: (out, in).
            bias: (out,).
            blocks: what the rows of `weight` are; None: the whole projection.
        """
        starts = {name: n * self.block_rows for n, name in enumerate(blocks or self.layout)}
        updates = [
            Update(
                rows=slice(start, start + self.block_rows),
                down=getattr(self, f"lora_A_{name}"),
                up=getattr(self, f"lora_B_{name}"),
            )
            for name, start in starts.items()
            if name in self.blocks
        ]
        if not updates:
            return F.linear(x, weight, bias)
        dropped = self.dropout(x) if self.dropout.p else x
        scale = self.scale * self.strength
        return adapted_linear(x, dropped, weight, bias, updates=updates, scale=scale)

    def delta(self) -> Tensor:
        """The update as a matrix: (out, in)."""
        down, up = self.stacked()
        return up @ down * (self.scale * self.strength)

    def stacked(self) -> tuple[Tensor, Tensor]:
        """All blocks as one A (n * rank, in) and one block-structured B (out, n * rank)."""
        if self.blocks == ("all",):
            return self.lora_A["all"], self.lora_B["all"]
        down = torch.cat(list(self.lora_A.values()))
        rank = len(down) // len(self.blocks)
        up = down.new_zeros(len(FUSED) * self.block_rows, len(down))
        for column, (name, matrix) in enumerate(self.lora_B.items()):
            up[self._rows(name), column * rank : (column + 1) * rank] = matrix
        return down, up

    def load_stacked(self, down: Tensor, up: Tensor, name: str) -> None:
        """Load what `stacked` returned for an adapter of the same shape.

        Raises:
            AdapterError: when the shapes differ, or B is not zero outside of the blocks.
        """
        own_down, own_up = self.stacked()
        if down.shape != own_down.shape or up.shape != own_up.shape:
            raise AdapterError(
                f"the adapter holds A {tuple(down.shape)} and B {tuple(up.shape)}, the "
                f"model expects {tuple(own_down.shape)} and {tuple(own_up.shape)}",
                record=name,
                fix="Use the recipe that the adapter was trained with",
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
                "the adapter mixes queries, keys and values, which the model adapts separately",
                record=name,
            )

    def _rows(self, name: str) -> slice:
        if name == "all":
            return slice(None)
        start = FUSED.index(name) * self.block_rows
        return slice(start, start + self.block_rows)


class LoraLinear(nn.Linear):
    """A linear layer, plain or fused qkv, with low-rank updates beside its frozen weight."""

    def __init__(self, base: nn.Linear, spec: LoraSpec) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self._replaced = (base,)  # in a tuple, so that it is not a submodule
        self.lora = _Adapters(base.weight, spec, spec.projections or ("all",))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        adapted = self.lora.projected(flat, self.weight, self.bias)
        return adapted.view(*x.shape[:-1], self.out_features)

    @property
    def base(self) -> nn.Linear:
        """The layer that was adapted, whose weight this one has."""
        (base,) = self._replaced
        return base

    def merged(self) -> nn.Linear:
        """The base layer with the update added to its weight, in place."""
        with torch.no_grad():
            self.base.weight.add_(self.lora.delta())
        return self.base

    def unmerge(self) -> None:
        """Subtract the update from the base weight again."""
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
        # Inputs that are the same are projected together.
        groups = groupby(zip(FUSED, (query, key, value), strict=True), key=lambda pair: id(pair[1]))
        q, k, v = (heads for _, pairs in groups for heads in self._projected(list(pairs)))
        mask = _attention_mask(q, k, attn_mask=attn_mask, key_padding_mask=key_padding_mask)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        order = (0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3)
        return self.out_proj(attended.permute(order).flatten(2)), None

    def _projected(self, inputs: Sequence[tuple[str, Tensor]]) -> list[Tensor]:
        """Queries, keys or values (B, heads, L, d), or several of them, of one input."""
        names, (x, *_) = zip(*inputs, strict=True)
        first = FUSED.index(names[0]) * self.embed_dim
        rows = slice(first, first + len(names) * self.embed_dim)
        flat, weight = x.reshape(-1, self.embed_dim), self.in_proj_weight[rows]
        bias = self.in_proj_bias[rows] if self.in_proj_bias is not None else None
        if self.lora is None:
            projected = F.linear(flat, weight, bias)
        else:
            projected = self.lora.projected(flat, weight, bias, blocks=names)
        heads = projected.view(*x.shape[:-1], len(names), self.num_heads, self.head_dim)
        order = (0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3)
        return [one.permute(order) for one in heads.unbind(-3)]

    @property
    def base(self) -> nn.MultiheadAttention:
        """The attention that was adapted, whose weights this one has."""
        (base,) = self._replaced
        return base

    def merged(self) -> nn.MultiheadAttention:
        """The base attention with the updates added to its weights, in place."""
        if isinstance(self.out_proj, LoraLinear):
            self.out_proj.merged()
        if self.lora is not None:
            with torch.no_grad():
                self.base.in_proj_weight.add_(self.lora.delta())
        return self.base

    def unmerge(self) -> None:
        """Subtract the updates from the base weights again."""
        if isinstance(self.out_proj, LoraLinear):
            self.out_proj.unmerge()
        if self.lora is not None:
            with torch.no_grad():
                self.in_proj_weight.sub_(self.lora.delta())


LoraModule = LoraLinear | LoraMultiheadAttention


def _attention_mask(
    q: Tensor, k: Tensor, *, attn_mask: Tensor | None, key_padding_mask: Tensor | None
) -> Tensor | None:
    """One mask that broadcasts to (B, heads, L, S): -inf or False where a key is hidden.

    True in a boolean mask hides a key in `nn.MultiheadAttention`, and shows it in
    scaled-dot-product attention.
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
