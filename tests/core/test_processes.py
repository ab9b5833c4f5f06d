"""Processes that communicate, and one on its own."""

from pathlib import Path

import pytest
import torch
from torch import nn

from segtune.core import processes as module
from segtune.core.errors import ConfigError
from segtune.core.processes import local_device, process_group
from tests.ranks import ranks


def test_a_single_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with process_group() as processes:
        assert processes.is_main
        assert (processes.rank, processes.count) == (0, 1)
        assert processes.device == torch.device("cpu")
        assert processes.sum([0.1, 2]) == [0.1, 2.0]
        assert processes.gather({"a": 1}) == [{"a": 1}]


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
