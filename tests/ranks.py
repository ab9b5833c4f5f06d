"""The processes of one run, with the environment of torchrun, forked so that they start at once."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
        "OMP_NUM_THREADS": "1",
    }
    started = [
        Forked(target, arguments, {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()


def run_ranks(target: Target, arguments: Sequence[str], count: int = 2) -> str:
    """Run `target` in `count` processes; what the first of them has written.

    AssertionError with all that they have written if one of them fails.
    """
    with ranks(target, arguments, count) as started:
        while any(p.poll() is None for p in started) and not any(p.returncode for p in started):
            time.sleep(0.02)
        for process in started:
            if any(p.returncode for p in started):  # the others would wait for it
                process.kill()
        outputs = [process.communicate()[0] for process in started]
        assert not any(process.returncode for process in started), "\n".join(outputs)
    return outputs[0]
