"""The processes of a run: one code path for a CPU, one GPU and several GPUs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from segtune.core.errors import ConfigError
from segtune.core.parent import end_with_parent

BUFFER_ELEMENTS = 2**24  # of gradients summed in one piece: 64 MB


@dataclass(frozen=True)
class Processes:
    """This process among those of a run."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sums over all processes, in double precision."""
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.count > 1:
            dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks."""
        if self.count == 1:
            return [value]
        gathered: list[Any] = [None] * self.count
        dist.all_gather_object(gathered, value)
        return gathered

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the gradient of each parameter by its sum over all processes, in float32.

        The sums are the same bits in every process.

        Args:
            parameters: the same, in the same order, in all processes. A gradient that is missing
                counts as zero, and is there afterwards.
        """
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for gradients in _pieces([p.grad for p in parameters if p.grad is not None]):
            total = torch.cat([gradient.flatten().float() for gradient in gradients])
            dist.all_reduce(total)
            parts = total.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))


def _pieces(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The gradients in few lists, each of at most `BUFFER_ELEMENTS` elements or one gradient."""
    piece: list[Tensor] = []
    elements = 0
    for gradient in gradients:
        if piece and elements + gradient.numel() > BUFFER_ELEMENTS:
            yield piece
            piece, elements = [], 0
        piece.append(gradient)
        elements += gradient.numel()
    yield piece


@contextmanager
def process_group() -> Iterator[Processes]:
    """Join the processes that torchrun started, over NCCL or gloo, or be the only one."""
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if count == 1:
        yield Processes(rank, count, device)
        return
    end_with_parent()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank, count, device)
    finally:
        dist.destroy_process_group()


def local_device() -> torch.device:
    """This process's CUDA device, or the CPU.

    Raises:
        ConfigError: when this machine has more processes than CUDA devices.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", 0))
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"{index + 1} processes, but only {torch.cuda.device_count()} CUDA devices",
            fix="Use fewer: snakemake --resources gpu=N",
        )
    return torch.device("cuda", index)
