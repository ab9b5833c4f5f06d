"""A real Slurm of two nodes on this machine, for as long as a command runs.

    python -m tests.cluster.two_nodes FOLDER -- COMMAND ...

Needs root on Linux, and Debian's packages `munge slurmctld slurmd slurm-client iproute2`. Each node
has a host name, a network, processes and mounts of its own (namespaces), 16 CPUs and 2 GPUs that do
not exist; jobs of the partition `urgent` preempt others. It differs from a cluster in that both
nodes see all of this machine's files, /tmp too.

What runs in a node ends with it: the kernel kills a whole namespace of processes with its first.
The other daemons are children of this process and end with it. Nothing else is stopped.
"""

import argparse
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from segtune.core.parent import end_with_creator

NODES = ("node1", "node2")
BRIDGE = "segtune0"  # of the network between the nodes and this machine
NETWORK = "10.93.7"
CONTROLLER_PORT, NODE_PORT = 26817, 26818
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "ip", "unshare")
DEVICE_MAJOR = 240  # reserved for local use: no driver is behind these GPUs
START_SECONDS = 30


def missing() -> str:
    """Why Slurm cannot be started here; empty where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    return f"not installed: {', '.join(absent)}" if absent else ""


@contextmanager
def two_nodes(folder: Path, *, grace_seconds: int = 30) -> Iterator[dict[str, str]]:
    """Start Slurm, yield the variables with which its commands find it, and stop it.

    Args:
        folder: for its configuration, state and logs.
        grace_seconds: between SIGTERM and SIGKILL.
    """
    for name in ("etc", "state", "log", "gpus", *NODES):
        (folder / name).mkdir(parents=True, exist_ok=True)
    configure(folder, grace_seconds)
    variables = {"SLURM_CONF": str(folder / "etc/slurm.conf")}
    with ExitStack() as stack:
        stack.enter_context(bridge())
        stack.enter_context(munge(folder))
        controller = ["slurmctld", "-D", "-f", variables["SLURM_CONF"]]
        stack.enter_context(daemon(controller, folder / "log/slurmctld.out", variables))
        # A node that finds no controller looks for it again only much later.
        wait_until(lambda: nodes(variables) == len(NODES), "slurmctld answers")
        for number, name in enumerate(NODES, start=1):
            stack.enter_context(node(folder, name, address=f"{NETWORK}.{10 + number}"))
        wait_until(lambda: nodes(variables, "--states=idle") == len(NODES), "both nodes are idle")
        yield variables


def configure(folder: Path, grace_seconds: int) -> None:
    """Write the configuration, and make the files of GPUs that do not exist."""
    own = socket.gethostname().split(".")[0]
    for number, name in enumerate(NODES):
        for gpu in range(2):
            path = folder / f"gpus/{name}-{gpu}"
            if not path.exists():
                os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(DEVICE_MAJOR, 2 * number + gpu))
    (folder / "etc/slurm.conf").write_text(f"""\
ClusterName=segtune
SlurmctldHost={own}({NETWORK}.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/state/slurmctld.pid
SlurmdPidFile={folder}/state/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
SlurmctldPort={CONTROLLER_PORT}
SlurmdPort={NODE_PORT}
ProctrackType=proctrack/cgroup
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait={grace_seconds}
MinJobAge=300
SchedulerParameters=batch_sched_delay=0,sched_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeAddr={NETWORK}.11 CPUs=16 RealMemory=256000 Gres=gpu:2
NodeName=node2 NodeAddr={NETWORK}.12 CPUs=16 RealMemory=256000 Gres=gpu:2
PartitionName=main Nodes=node1,node2 Default=YES DefMemPerCPU=1000 GraceTime={grace_seconds}
PartitionName=urgent Nodes=node1,node2 DefMemPerCPU=1000 PriorityTier=2
""")
    (folder / "etc/gres.conf").write_text(
        "".join(f"NodeName={n} Name=gpu File={folder}/gpus/{n}-[0-1]\n" for n in NODES)
    )
    (folder / "etc/cgroup.conf").write_text("CgroupAutomount=no\nConstrainDevices=no\n")
    (folder / "etc/hosts").write_text(
        f"127.0.0.1 localhost\n{NETWORK}.1 {own}\n{NETWORK}.11 node1\n{NETWORK}.12 node2\n"
    )


@contextmanager
def bridge() -> Iterator[None]:
    """A network of this machine and the nodes."""
    left = Path(f"/sys/class/net/{BRIDGE}/brif")
    if left.exists() and not any(left.iterdir()):  # by a run that was killed
        run("ip", "link", "del", BRIDGE)
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        yield
    finally:
        run("ip", "link", "del", BRIDGE)


@contextmanager
def munge(folder: Path) -> Iterator[None]:
    """The daemon with which Slurm's own trust each other."""
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    command = ["munged", "--foreground", "--force", f"--key-file={key}"]
    command += [f"--socket={folder}/munge.socket", f"--pid-file={folder}/state/munged.pid"]
    command += [f"--log-file={folder}/log/munged.log", f"--seed-file={folder}/state/munge.seed"]
    with daemon(command, folder / "log/munged.out", {}):
        wait_until((folder / "munge.socket").exists, "munge listens")
        yield


# `ip` gives the network namespace of a process a device, and that process waits for it.
# The plugin's job steps drop SLURM_CONF, so the configuration is where Slurm looks for it.
START_NODE = """
set -e
hostname "$1"
mount --bind "$2/etc/hosts" /etc/hosts
mkdir -p /etc/slurm
mount --bind "$2/etc" /etc/slurm
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip addr add "$3/24" dev eth0
ip link set eth0 up
slurmd -D -N "$1" &
wait
"""


@contextmanager
def node(folder: Path, name: str, *, address: str) -> Iterator[None]:
    """One node in namespaces of its own."""
    namespaces = ["--uts", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
    script = ["bash", "-c", START_NODE, "node", name, str(folder), address]
    log = folder / f"log/{name}.out"
    with daemon(["unshare", *namespaces, *script], log, {}, end=signal.SIGKILL) as outer:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        wait_until(lambda: bool(children.read_text()), f"{name} has begun")
        inner = children.read_text().split()[0]
        peer = ["peer", "name", "eth0", "netns", inner]
        run("ip", "link", "add", f"veth-{name}", "type", "veth", *peer)
        run("ip", "link", "set", f"veth-{name}", "master", BRIDGE, "up")
        yield
    for group in sorted(Path("/sys/fs/cgroup").glob(f"*/slurm_{name}/**/"), reverse=True):
        with suppress(OSError):  # the kernel is still ending its processes
            group.rmdir()


@contextmanager
def daemon(
    command: list[str],
    log: Path,
    variables: dict[str, str],
    *,
    end: signal.Signals = signal.SIGTERM,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that ends with the block, by its own id, or when this process is killed."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=end_with_creator,
        )
    try:
        yield process
    finally:
        process.send_signal(end)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def nodes(variables: dict[str, str], *options: str) -> int:
    """How many nodes Slurm lists in its main partition."""
    command = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%N", *options]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    return len(done.stdout.split())


def wait_until(true: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Wait for a condition; TimeoutError says which one does not come true."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


def run(*command: str) -> None:
    """Run a short command that must succeed."""
    subprocess.run(command, check=True)


def main() -> None:
    """Run a command while Slurm runs, and end with its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for configuration, state and logs")
    parser.add_argument("command", nargs="+", help="after --")
    arguments = parser.parse_args()
    if reason := missing():
        raise SystemExit(f"cannot start Slurm: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with two_nodes(arguments.folder.resolve()) as variables:
        environment = {**os.environ, **variables}
        done = subprocess.run(arguments.command, env=environment, check=False)
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
