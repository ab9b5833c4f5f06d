"""Run a command on leased devices, in one process per device.

`python -m segtune.launch --devices N -- COMMAND ...` leases N CUDA devices for the lifetime
of COMMAND, so that two jobs of one workflow never use the same GPU. With `--torchrun`,
COMMAND is the part after `python`; torchrun runs it in N processes that divide the job's
threads among them (a single process runs directly), and none of them outlives this one. Without
CUDA, nothing is leased and the same number of processes runs on the CPU.
"""

import argparse
import ctypes
import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from segtune.core.errors import ConfigError, exit_on_error
from segtune.core.parent import name_parent

POLL_SECONDS = 2.0
# Snakemake sets all of them to the threads of a job. A library that has a variable of its own
# does not look at OMP_NUM_THREADS, so dividing only that would leave too many threads.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Lease devices, divide threads, and run the command."""
    parser = argparse.ArgumentParser(prog="segtune.launch", description=__doc__)
    parser.add_argument("--devices", type=int, required=True, help="CUDA devices to lease")
    parser.add_argument("--torchrun", action="store_true", help="run one process per device")
    parser.add_argument("command", nargs="+", help="after --; with --torchrun, without `python`")
    arguments = parser.parse_args(argv)
    wanted = max(1, arguments.devices)
    with exit_on_error("launch"):
        devices = visible_devices()
        if devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease(devices, wanted))
        processes = wanted if arguments.torchrun else 1
        os.environ |= divided_threads(processes)
    sys.stdout.flush()
    if not arguments.torchrun:
        os.execvp(arguments.command[0], arguments.command)
    elif wanted == 1:
        os.execv(sys.executable, [sys.executable, *arguments.command])
    else:
        _torchrun(wanted, arguments.command)


def _torchrun(processes: int, command: list[str]) -> None:
    """Run torchrun, without its traceback above the message of the process that failed."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    name_parent()
    try:
        torchrun(["--standalone", f"--nproc_per_node={processes}", *command])
    except ChildFailedError as error:
        raise SystemExit(error.get_first_failure()[1].exitcode) from None
    except SignalException as error:
        raise SystemExit(128 + error.sigval.value) from None


def divided_threads(processes: int) -> dict[str, str]:
    """The variables that set numbers of threads, with an equal part for each process.

    Of those that are not set, only `OMP_NUM_THREADS` is added: the others follow it.
    """
    found = {name: os.environ.get(name, "") for name in THREAD_VARIABLES}
    numbers = {name: int(value) for name, value in found.items() if value.isdecimal()}
    threads = {"OMP_NUM_THREADS": os.cpu_count() or 1, **numbers}
    return {name: str(max(1, number // processes)) for name, number in threads.items()}


def visible_devices() -> list[str]:
    """CUDA devices, named as in `CUDA_VISIBLE_DEVICES`; empty without CUDA."""
    if not _has_driver():
        return []
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return [name.strip() for name in named.split(",")]
    return [str(index) for index in range(torch.cuda.device_count())]


def _has_driver() -> bool:
    # Importing torch takes seconds, which a machine without NVIDIA's driver need not wait for.
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def lease(devices: Sequence[str], wanted: int, folder: Path | None = None) -> list[str]:
    """Lock `wanted` of `devices`, waiting until enough of them are free.

    A lease is an advisory lock that the command inherits: it ends with the command's last
    process, however that process ends.

    Raises:
        ConfigError: when there are fewer devices than wanted.
    """
    if wanted > len(devices):
        raise ConfigError(
            f"{wanted} devices requested, {len(devices)} visible: {', '.join(devices)}",
            fix="Request fewer: snakemake --resources gpu=N",
        )
    folder = folder or Path(tempfile.gettempdir()) / f"segtune-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        locks = _lock_free(devices, wanted, folder)
        if len(locks) == wanted:
            for descriptor in locks.values():
                os.set_inheritable(descriptor, True)
            return list(locks)
        # Holding some while waiting for the rest could deadlock with another job.
        for descriptor in locks.values():
            os.close(descriptor)
        time.sleep(POLL_SECONDS)


def _lock_free(devices: Sequence[str], wanted: int, folder: Path) -> dict[str, int]:
    locks: dict[str, int] = {}
    for device in devices:
        if len(locks) == wanted:
            break
        descriptor = os.open(folder / device.replace("/", "_"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            locks[device] = descriptor
    return locks


if __name__ == "__main__":
    main()
