"""A net with every kind of layer that LoRA adapts, and adapters for it."""

import torch
from torch import Tensor, nn

from segtune.lora.inject import lora_parameters
from segtune.lora.layers import LoraSpec

WIDTH, HEADS, RANK, ALPHA = 16, 4, 3, 7.0
EXACT = {"rtol": 1e-10, "atol": 1e-10}


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
    """The same net at every call."""
    torch.manual_seed(0)
    return Net()


def randomize(model: nn.Module) -> None:
    """Give every adapter parameter random values, as training would."""
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
