"""A frozen linear map and its low-rank updates as one operation with a gradient of its own.

Composed of torch's operations, both paths would convert their input to the precision of mixed
precision, and their gradients would be two tensors of the input's size that are added. Here there
is one of each, and apart from matrix products, only matrices of the updates' rank are computed. On
a GPU, which waits for launches more than it computes, that counts.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class Update(NamedTuple):
    """scale * B A x, added to some of the outputs."""

    rows: slice  # of the weight
    down: Tensor  # A (rank, in)
    up: Tensor  # B (rows, rank)


def adapted_linear(
    x: Tensor,
    dropped: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    updates: Sequence[Update],
    scale: float,
) -> Tensor:
    """A linear map with low-rank updates, (n, out).

    Args:
        x: (n, in).
        dropped: (n, in), x after dropout, which the updates read.
        weight: (out, in), frozen: it gets no gradient.
        bias: (out,), frozen.
        updates: of different rows and one rank.
        scale: of the updates.
    """
    matrices = [matrix for update in updates for matrix in (update.down, update.up)]
    rows = [update.rows for update in updates]
    other = None if dropped is x else dropped
    return cast(Tensor, _Adapted.apply(x, other, weight, bias, scale, rows, *matrices))


class _Adapted(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        rows: Sequence[slice],
        *matrices: Tensor,
    ) -> Tensor:
        dtype = _precision(x)
        source, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
        ups = [up.to(dtype) for up in matrices[1::2]]
        down = torch.cat(matrices[::2]).mul_(scale).to(dtype)  # (updates * rank, in)
        with torch.autocast(x.device.type, enabled=False):
            projected = F.linear(source, weight, bias)
            source = source if dropped is None else dropped.to(dtype)
            low_rank = source @ down.t()  # (n, updates * rank)
            for one, up, part in _per_update(rows, ups, low_rank):
                projected[:, one].addmm_(part, up.t())
        ctx.save_for_backward(source, weight, down, low_rank, *ups)
        ctx.scale, ctx.rows, ctx.drops = scale, rows, dropped is not None
        return projected

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        source, weight, down, low_rank, *ups = ctx.saved_tensors
        parts = list(_per_update(ctx.rows, ups, low_rank))
        of_low_rank = torch.cat([gradient[:, one] @ up for one, up, _ in parts], dim=1)
        of_ups = [gradient[:, one].t() @ part for one, _, part in parts]
        of_down = (of_low_rank.t() @ source).mul_(ctx.scale)
        of_x = gradient @ weight if ctx.needs_input_grad[0] else None
        of_dropped = of_low_rank @ down if ctx.needs_input_grad[1] else None
        if of_x is not None and not ctx.drops:
            of_x.addmm_(of_low_rank, down)
        of_matrices = [
            m for pair in zip(of_down.chunk(len(ups)), of_ups, strict=True) for m in pair
        ]
        return of_x, of_dropped, None, None, None, None, *of_matrices


def _precision(x: Tensor) -> torch.dtype:
    """What a linear map of x is computed in."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _per_update(
    rows: Sequence[slice], ups: Sequence[Tensor], low_rank: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    return zip(rows, ups, low_rank.chunk(len(ups), dim=1), strict=True)
