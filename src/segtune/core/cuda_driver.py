"""What NVIDIA's driver says about the GPUs of this machine, without using one.

CUDA's runtime, and torch with it, would create a context: hundreds of MB on each GPU.
"""

import ctypes
import uuid
from typing import Any

from segtune.core.errors import ResourceError


def loaded_driver() -> Any | None:
    """The driver's library; None on a machine without one."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def visible_uuids(driver: Any) -> list[str]:
    """The UUIDs of the GPUs that `CUDA_VISIBLE_DEVICES` leaves, in its order.

    The driver itself reads the variable, with indices, UUIDs and abbreviations of them. A slice
    of a GPU (MIG) has a UUID of its own; drivers before CUDA 11.4 tell that of the GPU.

    Args:
        driver: see `loaded_driver`.

    Raises:
        ResourceError: when the driver does not tell the UUID of a GPU.
    """
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []  # there is no GPU, or no usable one
    return [_uuid(driver, index) for index in range(count.value)]


def _uuid(driver: Any, index: int) -> str:
    device, found = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    get_uuid = getattr(driver, "cuDeviceGetUuid_v2", None) or driver.cuDeviceGetUuid
    problem = driver.cuDeviceGet(ctypes.byref(device), index)
    problem = problem or get_uuid(ctypes.byref(found), device)
    if problem:
        raise ResourceError(
            f"the driver does not tell the UUID of GPU {index} (CUDA error {problem})",
            fix="See whether nvidia-smi -L lists it, and reset or exclude it otherwise",
        )
    return str(uuid.UUID(bytes=bytes(found)))
