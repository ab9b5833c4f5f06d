"""The processes of a run: one code path for a CPU, one GPU and several GPUs.

Counts, flags and objects go through gloo and the CPU, gradients through NCCL where there are
GPUs. When a process ends, its connections close, and the others notice it in whatever they do
together. NCCL might wait for it for ever; so before they use it, all of them meet on the CPU.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from segtune.core.errors import ConfigError, LostProcessError
from segtune.core.leases import share_leases
from segtune.core.parent import end_with_parent

# The others wait while one validates, writes or has more images. The end of a process is noticed
# at once, so that this is only for one that hangs.
TIMEOUT = timedelta(days=1)
# To sum gradients, when all have met. NCCL then ends the process; it needs seconds at first use.
NCCL_TIMEOUT = timedelta(minutes=5)
EXIT_SECONDS = 30  # in which a process ends that has failed
BUFFER_ELEMENTS = 2**24  # of gradients summed in one piece: 64 MB


@dataclass(frozen=True)
class Processes:
    """This process among those of a run."""

    rank: int
    count: int
    device: torch.device
    nccl: dist.ProcessGroup | None = None  # with GPUs; everything else goes through gloo

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sums over all processes, in double precision.

        Raises:
            LostProcessError: when another process has ended, in all functions that communicate.
        """
        total = torch.tensor(values, dtype=torch.float64)
        if self.count > 1:
            with _needing_others(self.rank, self.count):
                dist.all_reduce(total)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks.

        Values are pickled and made equally long: each process needs memory for `count` times the
        largest. Values of more than 2 GB have not been tried.
        """
        if self.count == 1:
            return [value]
        gathered: list[Any] = [None] * self.count
        with _needing_others(self.rank, self.count):
            dist.all_gather_object(gathered, value)
        return gathered

    def from_main(self, value: Any) -> Any:
        """The value of the first process, in all of them; that of the others does not count."""
        if self.count == 1:
            return value
        values = [value]
        with _needing_others(self.rank, self.count):
            dist.broadcast_object_list(values)
        return values[0]

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
        if self.nccl:
            self.sum([0.0])
        for gradients in _pieces([p.grad for p in parameters if p.grad is not None]):
            total = torch.cat([gradient.flatten().float() for gradient in gradients])
            with _needing_others(self.rank, self.count):
                dist.all_reduce(total, group=self.nccl)
            parts = total.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view(gradient.shape))


@contextmanager
def _needing_others(rank: int, count: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error):  # it has no error of its own, but names its source file
            raise
        end = "hangs" if "timed out" in str(error).lower() else "has ended"
        raise LostProcessError(
            f"another process {end}; process {rank} of {count} cannot continue",
            fix="The message of the other one says why",
        ) from None


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
    """Join the processes that torchrun started, or be the only one.

    Raises:
        LostProcessError: when another process has ended, here and in `Processes`.
        BusyError: when the lease of the GPUs is lost.
    """
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if count == 1:
        yield Processes(rank, count, device)
        return
    end_with_parent()
    share_leases()
    with _needing_others(rank, count):
        dist.init_process_group("gloo", timeout=TIMEOUT)
    nccl = None
    if device.type == "cuda":
        nccl = cast("dist.ProcessGroup", dist.new_group(backend="nccl", timeout=NCCL_TIMEOUT))
    processes = Processes(rank, count, device, nccl)
    try:
        yield processes
        processes.sum([0.0])  # NCCL wants all processes to leave together
    except BaseException:
        # Not destroyed: that may wait for the others, and they must not notice the end of this
        # process before its message is printed. The alarm ends it if NCCL waits all the same.
        signal.alarm(EXIT_SECONDS)
        raise
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
