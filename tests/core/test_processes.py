"""Processes that communicate, and one on its own."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from segtune.core import processes as module
from segtune.core.errors import ConfigError, DatasetError, LostProcessError, exit_on_error
from segtune.core.processes import Processes, local_device, process_group
from tests.forked import Forked
from tests.ranks import ranks


def test_a_single_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with process_group() as processes:
        assert processes.is_main
        assert (processes.rank, processes.count) == (0, 1)
        assert processes.device == torch.device("cpu")
        assert processes.sum([0.1, 2]) == [0.1, 2.0]
        assert processes.gather({"a": 1}) == [{"a": 1}]
        assert processes.from_main({"a": 1}) == {"a": 1}


def test_more_processes_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device() == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match=r"3 processes, but only 2 CUDA devices.*gpu=N"):
        local_device()


def gradients_of(rank: int) -> list[torch.Tensor | None]:
    """Of four parameters; the first has none in process 1, the last one nowhere."""
    generator = torch.Generator().manual_seed(rank)
    first = None if rank else torch.randn(3, 2, generator=generator)
    # The order of its elements in memory is not that of its indices.
    second = torch.randn(4, 5, generator=generator).t()
    return [first, second, torch.randn((), generator=generator), None]


def sum_gradients(arguments: list[str]) -> None:
    module.BUFFER_ELEMENTS = 7
    with process_group() as processes:
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 2), (5, 4), (), (2,))]
        for parameter, gradient in zip(parameters, gradients_of(processes.rank), strict=True):
            parameter.grad = gradient
        processes.sum_gradients(parameters)
        torch.save([p.grad for p in parameters], f"{arguments[0]}/{processes.rank}.pt")


def test_gradients_are_summed(tmp_path: Path) -> None:
    with ranks(sum_gradients, [str(tmp_path)]) as started:
        outputs = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    of_0, of_1 = gradients_of(0), gradients_of(1)
    assert of_0[0] is not None and of_0[1] is not None and of_0[2] is not None
    assert of_1[1] is not None and of_1[2] is not None
    expected = [of_0[0], of_0[1] + of_1[1], of_0[2] + of_1[2], torch.zeros(2)]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_gradients_of_a_single_process_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    parameter = nn.Parameter(torch.zeros(2))
    with process_group() as processes:
        processes.sum_gradients([parameter])
    assert parameter.grad is None


def test_processes_meet_on_the_cpu_before_nccl_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[object] = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, group=None: used.append(group))
    nccl = object()
    parameter = nn.Parameter(torch.zeros(2))
    Processes(0, 2, torch.device("cpu"), nccl).sum_gradients([parameter])  # type: ignore[arg-type]
    assert used == [None, nccl]


def finished(started: Sequence[Forked], timeout: float = 60) -> list[str]:
    """The outputs, when all have ended."""
    return [process.communicate(timeout)[0] for process in started]


def lose_a_process(arguments: list[str]) -> None:
    """Process 1 ends in one of three ways, before or while process 0 waits for it."""
    operation, end = arguments
    dist.destroy_process_group = lambda: time.sleep(100)  # as when NCCL waits
    parameter = nn.Parameter(torch.zeros(2))
    with exit_on_error("test"), process_group() as processes:
        processes.sum([0.0])
        if processes.rank == 1:
            time.sleep(0.1)
            fail(end)
        elif operation == "sum":
            processes.sum([1.0])
        elif operation == "gather":
            processes.gather({"a": 1})
        else:
            processes.sum_gradients([parameter])


def fail(end: str) -> None:
    if end == "raise":
        raise DatasetError("the first cause")
    if end == "exit":
        sys.exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("operation", ["sum", "gather", "sum_gradients"])
@pytest.mark.parametrize(("end", "status"), [("raise", 1), ("exit", 3), ("kill", -signal.SIGKILL)])
def test_the_others_notice_that_a_process_has_ended(operation: str, end: str, status: int) -> None:
    with ranks(lose_a_process, [operation, end]) as started:
        output, of_lost = finished(started)
    assert [process.returncode for process in started] == [1, status]
    assert output == (
        "segtune test: LostProcessError: another process has ended; process 0 of 2 cannot "
        "continue. The message of the other one says why\n"
    )
    expected = "segtune test: DatasetError: the first cause\n" if end == "raise" else ""
    assert of_lost == expected


def report_slowly(arguments: list[str]) -> None:
    reported = Path(arguments[0])
    try:
        with process_group() as processes:
            if processes.rank == 1:
                raise DatasetError("the first cause")
            processes.gather(0)
    except DatasetError:
        time.sleep(0.5)
        reported.touch()
    except LostProcessError:
        assert reported.exists()


def test_the_first_cause_is_reported_first(tmp_path: Path) -> None:
    with ranks(report_slowly, [str(tmp_path / "reported")]) as started:
        outputs = finished(started)
    assert [process.returncode for process in started] == [0, 0], outputs


def hang_at_the_end(arguments: list[str]) -> None:
    module.EXIT_SECONDS = 1
    try:
        with process_group():
            sys.exit(1)
    finally:
        time.sleep(100)


def test_a_process_that_has_failed_does_not_hang_at_its_end() -> None:
    with ranks(hang_at_the_end, []) as started:
        finished(started)
    assert {process.returncode for process in started} == {-signal.SIGALRM}


def test_a_process_that_hangs_is_told_from_one_that_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(dist, "all_reduce", fail)
    processes = Processes(0, 2, torch.device("cpu"))
    # Where gloo waits longer than its timeout.
    text = "[/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 20000ms for recv"
    with pytest.raises(LostProcessError, match="another process hangs; process 0 of 2"):
        processes.sum([0.0])
    text = "a bug"
    with pytest.raises(RuntimeError, match="a bug"):
        processes.sum([0.0])


def gather_a_large_object(arguments: list[str]) -> None:
    with process_group() as processes:
        sizes = [len(value) for value in processes.gather(bytes(2**24 * processes.rank))]
        assert processes.from_main({"of": processes.rank}) == {"of": 0}
    assert sizes == [0, 2**24]


def test_objects_of_different_sizes_are_gathered_and_the_first_is_sent_to_all() -> None:
    with ranks(gather_a_large_object, []) as started:
        outputs = finished(started)
    assert [process.returncode for process in started] == [0, 0], outputs


def wait_for_each_other(arguments: list[str]) -> None:
    with process_group() as processes:
        if processes.is_main:
            time.sleep(0.5)
            Path(arguments[0]).touch()
    assert Path(arguments[0]).exists()


def test_processes_leave_together(tmp_path: Path) -> None:
    with ranks(wait_for_each_other, [str(tmp_path / "written")]) as started:
        outputs = finished(started)
    assert [process.returncode for process in started] == [0, 0], outputs
