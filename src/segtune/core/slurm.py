"""Steps of a Slurm job.

Slurm signals only the first process of each step. Where Snakemake's plugin starts a job, that is an
inner Snakemake, which waits for its jobs. So what saves its state when it is stopped is started as
a step of its own, on one node or on several: `scancel`, a time limit and preemption reach it.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial

from segtune.core.errors import ConfigError, ResourceError
from segtune.core.parent import end_with_creator
from segtune.core.stop_signal import STOP_SIGNALS

STEP = "SEGTUNE_STEP"  # the variable with the id of the job in whose step this process is
JOB = "SLURM_JOB_ID"
# The other variables describe the step that this process is in, and srun would take them for
# options of the new one.
KEPT = (JOB, "SLURM_JOBID", "SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURM_RESTART_COUNT")
FIRST_PORT, PORTS = 15000, 15000  # below those that Linux gives to outgoing connections


def needs_step(variables: Mapping[str, str]) -> bool:
    """Whether this process is in a job of Slurm, but not yet in a step of its own."""
    job = variables.get(JOB)
    return job is not None and variables.get(STEP) != job and shutil.which("srun") is not None


def run_step(command: Sequence[str], *, nodes: int) -> int:
    """Run a command as a step, once per node; SIGINT and SIGTERM reach its processes as SIGTERM.

    Returns:
        The highest exit status of all nodes.
    """
    name = f"segtune-{os.getpid()}"
    # In a process group of its own: at Ctrl-C, as at SIGTERM, srun would kill what is to save.
    process = subprocess.Popen(
        step(command, nodes=nodes, name=name),
        env=step_variables(os.environ),
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=partial(end_with_creator, signal.SIGTERM),
    )

    def stop(number: int, frame: object) -> None:
        if not _stop_step(name):  # there is nothing yet that could save
            process.terminate()

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    status = process.wait()
    return status if status >= 0 else 128 - status


def _stop_step(name: str) -> bool:
    """Send SIGTERM to the step of this name; False where there is none."""
    listed = ["squeue", "--steps", "--noheader", f"--jobs={os.environ[JOB]}", "--format=%i %j"]
    lines = subprocess.run(listed, stdout=subprocess.PIPE, text=True, check=False).stdout
    found = [line.split()[0] for line in lines.splitlines() if line.split()[1:] == [name]]
    for identity in found:
        subprocess.run(["scancel", "--signal=TERM", identity], check=False)
    return bool(found)


def step(command: Sequence[str], *, nodes: int, name: str) -> list[str]:
    """The command that runs another one as a step of this name, once per node.

    A step has all CPUs, memory and GPUs that the job has on its nodes, also those that the step
    around it has; where one node fails, the others are ended. A step of one node stays where this
    process is, also if the job has others.
    """
    options = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
    here = os.environ.get("SLURMD_NODENAME")
    if nodes == 1 and here:
        options.append(f"--nodelist={here}")
    whole = ["--overlap", "--kill-on-bad-exit=1", "--cpu-bind=none"]
    return ["srun", f"--job-name={name}", *whole, *options, *command]


def step_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment in which to call srun, and that the step inherits."""
    kept = {
        name: value
        for name, value in variables.items()
        if name in KEPT or not name.startswith(("SLURM_", "SRUN_"))
    }
    return {**kept, STEP: variables[JOB]}


def devices_per_node(devices: int, nodes: int) -> int:
    """How many of the devices, which are those of all nodes, are on each.

    Raises:
        ConfigError: when they cannot be divided, or outside of Slurm.
    """
    if devices % nodes:
        raise ConfigError(
            f"{devices} devices cannot be divided among {nodes} nodes",
            fix="`gpu` counts those of all nodes: make it a multiple of `nodes`",
        )
    if nodes > 1 and STEP not in os.environ and not needs_step(os.environ):
        raise ConfigError(
            f"{nodes} nodes requested outside of a Slurm job",
            fix="Start it with --workflow-profile profiles/slurm, or request one node",
        )
    return devices // nodes


def rendezvous(nodes: int) -> list[str]:
    """The options with which the torchruns of a step's nodes find each other.

    Static: ranks follow from the number of a node. With c10d, they follow from who comes when,
    and sums of floating-point numbers depend on the order of ranks.

    Raises:
        ResourceError: when Slurm does not name the nodes.
    """
    if nodes == 1:
        # By this name, because in some containers the machine's own cannot be resolved.
        return ["--standalone", "--local-addr=localhost"]
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        problem = f"Slurm does not name the nodes of this step ({done.stderr.strip()[:200]})"
        raise ResourceError(problem, fix="Does `scontrol show hostnames` work on the nodes?")
    first = done.stdout.split()[0]
    return [
        *(f"--nnodes={nodes}", f"--node_rank={os.environ['SLURM_NODEID']}"),
        *("--rdzv_backend=static", f"--master_addr={first}"),
        f"--master_port={FIRST_PORT + int(os.environ[JOB]) % PORTS}",
    ]
