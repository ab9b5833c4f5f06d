"""Training of segtune beside the plain way: operations, speed, memory, and who takes them.

`python -m benchmarks.training --size tiny|mid|full` takes the same optimizer step in both ways:
one image with ten prompts, of which three show something, and the recipe's LoRA, in vision in all
blocks, in its last quarter, or nowhere. The reference is the plain way with LoRA in all of vision
(benchmarks/plain_reference.py), and ratios are to it. Steps of all cases are timed in turn; one
more of each counts operations, their time, and live tensors. On a CPU, seconds are those of one
core. `full` is computed on a GPU only:
without one, operations and memory are counted on tensors that have no content. `--epoch` trains the
tiny model on the demo and times epochs and validations.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.epoch import epoch_table
from benchmarks.memory import GB
from benchmarks.sizes import SIZES
from benchmarks.step_account import COMPONENTS, StepAccount
from benchmarks.training_cases import Case, Prepared, cases, prepared, without_values
from segtune.core.processes import local_device

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Measured:
    """One step of a case."""

    case: Case
    flops: dict[str, int]  # per component
    attention_flops: int  # among them
    busy_seconds: dict[str, float]  # per component, in operations; empty unless on a CPU
    peak_bytes: int  # of tensors
    seconds: Sequence[float]  # of timed steps, each on one image; none where nothing is computed


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all cases at one size, and print two tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.training", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="mid")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each case")
    parser.add_argument("--epoch", action="store_true", help="whole epochs with validation instead")
    arguments = parser.parse_args(argv)
    if arguments.epoch:
        print("\n".join(epoch_table()))
        return
    device = local_device()
    with _one_thread():
        if arguments.size == "full" and device == CPU:
            found = [counted_without_values(case) for case in cases("full")]
        else:
            found = measured_cases(arguments.size, device, repeats=arguments.repeats)
    print(f"{arguments.size} on {device}\n")
    print("\n".join([*summary(found), "", *fractions(found)]), flush=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def counted_without_values(case: Case) -> Measured:
    with without_values(case) as ready:
        account = _account(ready)
    return Measured(
        case,
        flops=account.flops,
        attention_flops=account.attention_flops,
        busy_seconds={},
        peak_bytes=account.peak,
        seconds=(),
    )


def measured_cases(size: str, device: torch.device, *, repeats: int) -> list[Measured]:
    """All cases; those are timed in turn, because a machine's speed varies with time."""
    ready = {case: prepared(case, size, device) for case in cases(size)}
    seconds: dict[Case, list[float]] = {case: [] for case in ready}
    for repeat in range(repeats + 1):
        for case, one in ready.items():
            took = _seconds(one.step, device)
            if repeat:  # the first step allocates the optimizer's state and chooses kernels
                seconds[case].append(took)
    return [_measured_case(case, one, seconds[case]) for case, one in ready.items()]


def _measured_case(case: Case, ready: Prepared, seconds: Sequence[float]) -> Measured:
    device = ready.batch.images.device
    peak = _peak_on_gpu(ready) if device.type == "cuda" else None
    account = _account(ready)
    return Measured(
        case,
        flops=account.flops,
        attention_flops=account.attention_flops,
        # A GPU runs operations later than they are dispatched.
        busy_seconds=account.seconds if device == CPU else {},
        peak_bytes=account.peak if peak is None else peak,
        seconds=seconds,
    )


def _account(ready: Prepared) -> StepAccount:
    account = StepAccount(ready.model)
    for tensor in ready.resident():
        account.add(tensor)
    with account.counting():
        ready.step()
    return account


def _peak_on_gpu(ready: Prepared) -> int:
    """As the allocator counts it, without what belongs to other cases."""
    others = torch.cuda.memory_allocated() - sum(t.nbytes for t in ready.resident())
    torch.cuda.reset_peak_memory_stats()
    ready.step()
    return torch.cuda.max_memory_allocated() - others


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    # On a CPU, the time of this process: what else the machine does hardly counts.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def summary(found: Sequence[Measured]) -> Iterator[str]:
    """A table of all cases; the first one is the reference."""
    yield "| LoRA in | way | TFLOP | | without attention | | images/s | | peak GB | |"
    yield "|---" * 10 + "|"
    reference = found[0]
    for one in found:
        cells = [one.case.title, one.case.way]
        for figure in (_teraflops, _teraflops_without_attention, _images_per_second, _peak_gb):
            value, base = figure(one), figure(reference)
            cells += [f"{value:.3g}", f"{value / base:.2f}"] if value and base else ["", ""]
        yield "| " + " | ".join(cells) + " |"


def fractions(found: Sequence[Measured]) -> Iterator[str]:
    """A table of the components' fractions of a step's operations, and on a CPU of its time."""
    titles = [f"{one.case.title}, {one.case.way}" for one in found]
    timed = bool(found[0].busy_seconds)
    of = "time (of operations)" if timed else "operations"
    yield f"| fraction of {of} | {' | '.join(titles)} |"
    yield "|---" * (1 + len(found)) + "|"
    for component in COMPONENTS:
        cells = []
        for one in found:
            operations = f"{one.flops.get(component, 0) / sum(one.flops.values()):.0%}"
            if timed:
                part = one.busy_seconds.get(component, 0.0) / sum(one.busy_seconds.values())
                operations = f"{part:.0%} ({operations})"
            cells.append(operations)
        yield f"| {component} | {' | '.join(cells)} |"


def _teraflops(one: Measured) -> float:
    return sum(one.flops.values()) / 1e12


def _teraflops_without_attention(one: Measured) -> float:
    return _teraflops(one) - one.attention_flops / 1e12


def _images_per_second(one: Measured) -> float:
    return 1 / median(one.seconds) if one.seconds else 0.0


def _peak_gb(one: Measured) -> float:
    return one.peak_bytes / GB


if __name__ == "__main__":
    main()
