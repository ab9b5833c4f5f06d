"""Leases of GPUs: a job holds its GPUs until the last of its processes has ended.

A lease is a lock on a file named by the GPU's UUID, so neither two names of one GPU nor equal
names of two GPUs confuse it. The file is in this machine's folder for temporary files: jobs on
other machines, of other users, or with another `TMPDIR` know nothing of it.

The job holds a shared lock, and a new job needs an exclusive one. The launcher's lock is
inherited by the command that replaces it. Processes that are started in another way, by
torchrun, take the same lock too, and the lease outlives a launcher that is killed.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from segtune.core.console import log_line
from segtune.core.errors import BusyError, ConfigError, ResourceError
from segtune.core.foreign import reason

LEASES = "SEGTUNE_LEASES"  # the environment variable that names the locked files
POLL_SECONDS = 2.0
REPORT_SECONDS = 300.0  # between two lines of a job that waits
MAX_HOLDER = 200  # characters of a lock file that are shown


@dataclass(frozen=True)
class Device:
    """A GPU, or a slice of one."""

    name: str  # as in CUDA_VISIBLE_DEVICES
    uuid: str


def lease(devices: Sequence[Device], wanted: int, command: str) -> list[Device]:
    """Lease `wanted` of `devices`, waiting until enough of them are free.

    The lease ends with the last process that has inherited it or called `share_leases`, however
    that process ends. While it waits, a line says for whom, once and then every few minutes.
    The locked files are named in the environment, for `share_leases`.

    Args:
        devices: those to choose from, in order of preference.
        wanted: how many, at least one.
        command: the name of this job, which jobs that wait report.

    Raises:
        ConfigError: when there are fewer devices than wanted.
        ResourceError: when files cannot be locked.
    """
    if wanted > len(devices):
        names = ", ".join(device.name for device in devices)
        raise ConfigError(
            f"{wanted} devices requested, {len(devices)} visible: {names}",
            fix="Request fewer: snakemake --resources gpu=N",
        )
    folder = Path(tempfile.gettempdir()) / f"segtune-devices-{os.getuid()}"
    try:
        leased = _wait_for(devices, wanted, command=command, folder=folder)
    except OSError as error:
        raise _no_locks(folder, error) from None
    os.environ[LEASES] = os.pathsep.join(str(folder / device.uuid) for device in leased)
    return leased


def share_leases() -> None:
    """Hold the leases of the launcher, as long as this process and those that it forks live.

    Raises:
        BusyError: when the launcher has ended and another job has leased its devices.
        ResourceError: when files cannot be locked.
    """
    for path in filter(None, os.environ.get(LEASES, "").split(os.pathsep)):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # never closed
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = "another job has leased this GPU, because the launcher has ended"
            raise BusyError(problem, file=path, fix="Start again") from None
        except OSError as error:
            raise _no_locks(path, error) from None


def _no_locks(path: Path | str, error: OSError) -> ResourceError:
    return ResourceError(
        f"cannot lock GPUs here ({reason(error)})",
        file=path,
        fix="Set TMPDIR to a folder on a local disk that you can write to",
    )


def _wait_for(
    devices: Sequence[Device], wanted: int, *, command: str, folder: Path
) -> list[Device]:
    folder.mkdir(mode=0o700, exist_ok=True)
    reported = float("-inf")
    while True:
        free = _lease_free(devices, wanted, command=command, folder=folder)
        if len(free) >= wanted:
            return free[:wanted]
        if time.monotonic() - reported >= REPORT_SECONDS:
            reported = time.monotonic()
            used = "; ".join(_used(d.name, folder / d.uuid) for d in devices if d not in free)
            log_line(f"waiting for {wanted} of {len(devices)} GPUs: {used}")
        time.sleep(POLL_SECONDS)


def _lease_free(
    devices: Sequence[Device], wanted: int, *, command: str, folder: Path
) -> list[Device]:
    """Find the free devices; lease the first of them if there are as many as wanted.

    Holding some while waiting for the rest could deadlock with another job.
    """
    with _one_at_a_time(folder):
        found = {device: _exclusive_lock(folder / device.uuid) for device in devices}
        locks = {device: lock for device, lock in found.items() if lock is not None}
        for number, descriptor in enumerate(locks.values()):
            if number < wanted <= len(locks):
                _hold(descriptor, command)
            else:
                os.close(descriptor)
    return list(locks)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    # A lock that becomes shared is free for a moment, in which two jobs could take it.
    descriptor = os.open(folder / "choosing", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _exclusive_lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _hold(descriptor: int, command: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} ({command})".encode(), 0)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.set_inheritable(descriptor, True)


def _used(name: str, lock: Path) -> str:
    # That process may have ended before those that it started.
    holder = lock.read_text("utf-8", "replace")[:MAX_HOLDER]
    return f"{name} is used by the job that began as {holder or 'another process'}"
