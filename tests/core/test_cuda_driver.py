"""GPUs as NVIDIA's driver names them, with a driver that is made up."""

from ctypes import CDLL
from typing import Any
from uuid import UUID

import pytest

from segtune.core.cuda_driver import loaded_driver, visible_uuids
from segtune.core.errors import ResourceError

FIRST, SECOND = UUID(int=1), UUID(int=2**127 + 7)


class Driver:
    """Two GPUs. As in C, numbers are written through pointers, and a status is returned."""

    def __init__(self, status: int = 0, uuid_status: int = 0) -> None:
        self.status, self.uuid_status = status, uuid_status
        self.ready = False

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        self.ready = True
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 2
        return 0 if self.ready else 3

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = 10 + index  # a handle is not an index
        return 0

    def cuDeviceGetUuid(self, uuid: Any, device: Any) -> int:  # noqa: N802
        uuid._obj[:] = {10: FIRST, 11: SECOND}[device.value].bytes
        return self.uuid_status


class NewDriver(Driver):
    """The first is a slice of a GPU, which only the newer function tells."""

    def cuDeviceGetUuid_v2(self, uuid: Any, device: Any) -> int:  # noqa: N802
        uuid._obj[:] = {10: UUID(int=3), 11: SECOND}[device.value].bytes
        return 0


def test_devices_have_uuids() -> None:
    assert visible_uuids(Driver()) == [
        "00000000-0000-0000-0000-000000000001",
        "80000000-0000-0000-0000-000000000007",
    ]
    assert visible_uuids(NewDriver()) == [str(UUID(int=3)), str(SECOND)]


def test_a_driver_without_a_gpu_has_no_devices() -> None:
    assert visible_uuids(Driver(status=100)) == []


def test_a_device_without_a_uuid_is_an_error() -> None:
    with pytest.raises(ResourceError, match=r"UUID of GPU 0 \(CUDA error 101\).*nvidia-smi"):
        visible_uuids(Driver(uuid_status=101))


def test_a_machine_may_have_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: CDLL("no such library"))
    assert loaded_driver() is None
