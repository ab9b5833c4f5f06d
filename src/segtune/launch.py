"""Run a command on leased devices, in one process per device.

`python -m segtune.launch --devices N -- COMMAND ...` leases N CUDA devices for the lifetime
of COMMAND, so that two jobs of one workflow never use the same GPU. With `--torchrun`,
COMMAND is the part after `python`; torchrun runs it in N processes that divide the job's
threads among them (a single process runs directly), and none of them outlives this one. SIGINT
and SIGTERM stop them; the exit status is then 130, or 137 if they had to be killed. Without CUDA,
nothing is leased and the same number of processes runs on the CPU.

In a job of Slurm, all this happens in a step of its own, which Slurm's signals reach; with
`--nodes`, once on each of several nodes, among which the N devices are divided.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.core.cuda_driver import loaded_driver, visible_uuids
from segtune.core.errors import exit_on_error
from segtune.core.leases import Device, lease
from segtune.core.parent import name_parent
from segtune.core.slurm import devices_per_node, needs_step, rendezvous, run_step
from segtune.core.stop_signal import INTERRUPTED_STATUS, STOP_SIGNALS

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

# A process that is to stop finishes its optimizer step or the images that it validates, and saves.
# That takes seconds on a GPU; on a CPU, or where a file system is slow, it may take minutes.
SHUTDOWN_SECONDS = 300
KILLED_STATUS = 128 + signal.SIGKILL
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
    parser.add_argument("--nodes", type=int, default=1, help="nodes of Slurm, with --torchrun")
    parser.add_argument("command", nargs="+", help="after --; with --torchrun, without `python`")
    arguments = parser.parse_args(argv)
    if arguments.nodes < 1 or (arguments.nodes > 1 and not arguments.torchrun):
        parser.error("--nodes must be at least 1, and 1 without --torchrun")
    with exit_on_error("launch"):
        wanted = devices_per_node(max(1, arguments.devices), arguments.nodes)
        if needs_step(os.environ):
            raise SystemExit(_step(arguments))
        meeting = rendezvous(arguments.nodes)
        devices = visible_devices()
        if devices:
            leased = lease(devices, wanted, _name(arguments.command))
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(device.name for device in leased)
        processes = wanted if arguments.torchrun else 1
        os.environ |= divided_threads(processes)
    sys.stdout.flush()
    if not arguments.torchrun:
        os.execvp(arguments.command[0], arguments.command)
    elif wanted == arguments.nodes == 1:
        os.execv(sys.executable, [sys.executable, *arguments.command])
    else:
        _torchrun(wanted, meeting, arguments.command)


def _step(arguments: argparse.Namespace) -> int:
    """Run the same launcher in a step; its exit status."""
    options = [f"--devices={arguments.devices}", f"--nodes={arguments.nodes}"]
    options += ["--torchrun"] if arguments.torchrun else []
    launcher = [sys.executable, "-m", "segtune.launch", *options, "--", *arguments.command]
    return run_step(launcher, nodes=arguments.nodes)


def _name(command: Sequence[str]) -> str:
    """The module or program of a command, without its arguments, which may contain secrets."""
    program, *options = command
    words = options if Path(program).name.startswith("python") else command
    return words[1] if len(words) > 1 and words[0] == "-m" else Path(program).name


def _torchrun(processes: int, meeting: Sequence[str], command: Sequence[str]) -> None:
    """Run torchrun, without its traceback above the message of the process that failed.

    Args:
        processes: on this node.
        meeting: options of torchrun, from `rendezvous`.
        command: without `python`.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    options = [f"--nproc_per_node={processes}", f"--shutdown-timeout={SHUTDOWN_SECONDS}"]
    stopped: list[float] = []
    name_parent()
    try:
        _stop_once(stopped)
        torchrun([*meeting, *options, "--signals-to-handle=SIGQUIT", *command])
    except ChildFailedError as error:
        raise SystemExit(_failed(error.failures)) from None
    except SignalException as error:
        if stopped and time.monotonic() - stopped[0] >= SHUTDOWN_SECONDS:
            _say(f"killed processes that had not ended after {SHUTDOWN_SECONDS} s")
            raise SystemExit(KILLED_STATUS) from None
        raise SystemExit(INTERRUPTED_STATUS if stopped else 128 + error.sigval) from None


def _stop_once(stopped: list[float]) -> None:
    """Have the first SIGINT or SIGTERM stop torchrun, note its time, and ignore later ones.

    At a second one, torchrun would no longer wait for processes that save.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def stop(number: int, frame: object) -> None:
        for later in STOP_SIGNALS:
            signal.signal(later, signal.SIG_IGN)
        stopped.append(time.monotonic())
        raise SignalException(f"signal {number}", sigval=signal.SIGTERM)

    for number in STOP_SIGNALS:
        signal.signal(number, stop)


def _failed(failures: Mapping[int, "ProcessFailure"]) -> int:
    """The exit status of the process that failed first, which a line names if a signal ended it.

    torchrun has ended those that still ran; those that noticed the failure have status 1. Times
    are in whole seconds.
    """

    def order(item: tuple[int, "ProcessFailure"]) -> tuple[int, bool, bool]:
        failure = item[1]
        return failure.timestamp, failure.exitcode == -signal.SIGTERM, failure.exitcode == 1

    rank, first = min(failures.items(), key=order)
    if first.exitcode >= 0:
        return first.exitcode
    name = signal.Signals(-first.exitcode).name
    hint = "; is the memory full?" if name == "SIGKILL" else ""
    _say(f"process {rank} was ended by {name}{hint}")
    return 128 - first.exitcode


def _say(text: str) -> None:
    print(f"segtune launch: {text}", file=sys.stderr)


def divided_threads(processes: int) -> dict[str, str]:
    """The variables that set numbers of threads, with an equal part for each process.

    Of those that are not set, only `OMP_NUM_THREADS` is added: the others follow it.
    """
    found = {name: os.environ.get(name, "") for name in THREAD_VARIABLES}
    numbers = {name: int(value) for name, value in found.items() if value.isdecimal()}
    threads = {"OMP_NUM_THREADS": os.cpu_count() or 1, **numbers}
    return {name: str(max(1, number // processes)) for name, number in threads.items()}


def visible_devices() -> list[Device]:
    """The CUDA devices that may be leased; empty without CUDA."""
    driver = loaded_driver()
    uuids = visible_uuids(driver) if driver else []
    if not uuids:  # importing torch takes seconds, which such a machine need not wait for
        return []
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(index) for index in range(len(uuids))]
    # CUDA ignores what comes after a name that it does not know.
    return [Device(name.strip(), uuid) for name, uuid in zip(names, uuids, strict=False)]


if __name__ == "__main__":
    main()
