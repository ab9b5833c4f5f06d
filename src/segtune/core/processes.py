"""The processes of a run: one code path for a CPU, one GPU and several GPUs."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from segtune.core.errors import ConfigError
from segtune.core.parent import end_with_parent


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
