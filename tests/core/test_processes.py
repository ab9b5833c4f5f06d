"""One process on its own; several are tested through the launcher."""

import pytest
import torch

from segtune.core.errors import ConfigError
from segtune.core.processes import local_device, process_group


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
