"""The processes of one run, with the environment of torchrun, forked so that they start at once."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch.distributed as dist

from tests.forked import Forked, Target


@contextmanager
def ranks(target: Target, arguments: Sequence[str], count: int = 2) -> Iterator[list[Forked]]:
    """Start `target` in `count` processes; what is left of them at the end is killed."""
    # Here, as in torchrun's agent, the store outlives every process.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    started = [
        Forked(partial(_run, target, {**environment, "RANK": str(rank)}), arguments)
        for rank in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()


def _run(target: Target, environment: dict[str, str], arguments: list[str]) -> None:
    os.environ |= environment
    target(arguments)
