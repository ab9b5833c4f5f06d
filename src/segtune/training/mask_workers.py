"""Processes that compress masks, so that the one that drives the GPU does not.

Not threads: pycocotools does not let others run while it compresses.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from segtune.core.errors import ResourceError
from segtune.dataset.data_workers import live_as_long_as_creator, stop_signals_blocked
from segtune.dataset.mask_bits import Bits, packed_to_rles
from segtune.dataset.masks import Rle

WAITING = 4  # tasks per process, beyond which more masks are not accepted
OWN_PIXELS = 2**27  # pixels, compressed in less time than it takes to start processes

Compress = Callable[[Bits, int], Future[list[Rle]]]  # of masks with this height


@contextmanager
def mask_workers(count: int) -> Iterator[Compress]:
    """A function that has packed masks compressed by `count` processes, or at once without any.

    The first `OWN_PIXELS` pixels are compressed at once in any case. It waits while too many
    masks are waiting, so that memory is bounded.

    Raises:
        ResourceError: within, in the function and in what it returns, when a process is killed.
    """
    if not count:
        yield _at_once
        return
    with _pool(count) as pool:
        running: deque[Future[list[Rle]]] = deque()
        own = 0  # pixels

        def compress(bits: Bits, height: int) -> Future[list[Rle]]:
            nonlocal own
            if own < OWN_PIXELS:
                own += 8 * bits.size
                return _at_once(bits, height)
            if len(running) == WAITING * count:
                running.popleft().exception()  # waits; whoever has the result learns of an error
            with stop_signals_blocked():  # the first submission starts the processes
                running.append(pool.submit(packed_to_rles, bits, height))
            return running[-1]

        yield compress


@contextmanager
def _pool(count: int) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(count, initializer=live_as_long_as_creator)
    try:
        yield pool
    except BrokenProcessPool:
        raise ResourceError(
            "a process that compresses masks was killed",
            fix="Often the machine has run out of memory: use fewer cores",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _at_once(bits: Bits, height: int) -> Future[list[Rle]]:
    done: Future[list[Rle]] = Future()
    done.set_result(packed_to_rles(bits, height))
    return done
