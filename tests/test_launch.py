"""Devices, divided threads, processes that communicate, and how they stop."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from segtune.core.leases import Device
from segtune.launch import THREAD_VARIABLES, divided_threads, main, visible_devices
from tests.cluster.pretended import pretend_slurm
from tests.running import is_running


def test_devices_keep_the_names_of_cuda_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("segtune.launch.loaded_driver", object)
    monkeypatch.setattr("segtune.launch.visible_uuids", lambda driver: ["a", "b"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices() == [Device("0", "a"), Device("1", "b")]
    # CUDA ignores what follows a device that there is not.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc,9,4")
    assert visible_devices() == [Device("3", "a"), Device("GPU-abc", "b")]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert visible_devices() == []
    monkeypatch.setattr("segtune.launch.visible_uuids", lambda driver: [])
    assert visible_devices() == []
    monkeypatch.setattr("segtune.launch.loaded_driver", lambda: None)
    assert visible_devices() == []


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python -m segtune.train --key secret", "segtune.train"),
        ("-m segtune.train --key secret", "segtune.train"),
        ("/opt/python3.11 /opt/tool.py secret", "python3.11"),
        ("/opt/tool.py -m secret", "tool.py"),
    ],
)
def test_a_job_leases_devices_under_its_name(
    command: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased: list[tuple[int, str]] = []

    def lease(devices: list[Device], wanted: int, command: str) -> list[Device]:
        leased.append((wanted, command))
        return devices[1:]

    def execute(program: str, arguments: list[str]) -> None:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-abc"

    devices = [Device("3", "a"), Device("GPU-abc", "b")]
    monkeypatch.setattr("segtune.launch.visible_devices", lambda: devices)
    monkeypatch.setattr("segtune.launch.lease", lease)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(os, "execvp", execute)
    main(["--devices", "1", "--", *command.split()])
    assert leased == [(1, name)]


def in_job(folder: Path) -> dict[str, str]:
    """The environment in a job of Slurm, which is pretended."""
    path = f"{pretend_slurm(folder)}:{os.environ['PATH']}"
    job = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_MEM_PER_NODE": "64"}
    return {**os.environ, **job, "PATH": path, "CUDA_VISIBLE_DEVICES": ""}


def test_in_a_job_of_slurm_the_command_runs_in_a_step(tmp_path: Path) -> None:
    show = "import os, sys; print(sorted(n for n in os.environ if n[:6] == 'SLURM_')); sys.exit(3)"
    result = subprocess.run(
        [*LAUNCH, "--devices", "1", "--", sys.executable, "-c", show],
        env=in_job(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    # In the step, with the variables of the step and not of the one around it.
    assert "['SLURM_JOB_ID', 'SLURM_NODEID', 'SLURM_STEP_NODELIST']" in result.stdout
    assert result.returncode == 3, result.stderr


# What a shell does that has something to save.
SAVE_IN_SHELL = """
trap 'sleep 1; echo saved; exit 130' TERM
echo ready
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_lets_the_step_save(
    number: signal.Signals, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [*LAUNCH, "--devices", "1", "--", "sh", "-c", SAVE_IN_SHELL],
        env=in_job(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        lines_of(process, "ready", 1)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert output == "saved\n"
    assert process.returncode == 130


def test_a_step_does_not_outlive_its_launcher(tmp_path: Path) -> None:
    environment = in_job(tmp_path)
    with subprocess.Popen(
        [*LAUNCH, "--devices", "1", "--", "sh", "-c", SAVE_IN_SHELL],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        lines_of(process, "ready", 1)
        process.kill()
    [pid] = (tmp_path / "srun.started").read_text().split()
    wait_until(lambda: not is_running(int(pid)))


LAUNCH = [sys.executable, "-m", "segtune.launch"]


def test_several_nodes_are_for_processes_that_know_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--devices", "2", "--nodes", "2", "--", "true"])
    assert "--nodes must be at least 1, and 1 without --torchrun" in capsys.readouterr().err
    with pytest.raises(SystemExit) as raised:
        main(["--devices", "2", "--nodes", "2", "--torchrun", "--", "script.py"])
    assert raised.value.code == 1
    assert "2 nodes requested outside of a Slurm job" in capsys.readouterr().err


def test_threads_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert divided_threads(1) == {"OMP_NUM_THREADS": str(os.cpu_count())}
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("MKL_NUM_THREADS", "6")
    monkeypatch.setenv("NUMEXPR_NUM_THREADS", "no number")
    assert divided_threads(2) == {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "3"}
    assert divided_threads(16) == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


SHOW = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ.get('RANK'))"


def test_a_command_replaces_the_launcher() -> None:
    command = ["--devices", "0", "--", sys.executable, "-c", SHOW]
    environment = {**os.environ, "OMP_NUM_THREADS": "6", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-m", "segtune.launch", *command],
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )
    assert result.stdout == "6 None\n"


COMMUNICATE = """
import os, sys
from segtune.core.processes import process_group
with process_group() as processes:
    total = processes.sum([1.0, processes.rank])
    gathered = processes.gather({"rank": processes.rank})
    if processes.is_main:
        print("sum", total, "all", gathered, "of", processes.count, flush=True)
        print("threads", *(os.environ[name] for name in sys.argv[1:]), flush=True)
"""
FAIL = "import os, sys; sys.exit(3 if os.environ['RANK'] == '1' else 0)"


def torchrun(tmp_path: Path, code: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "script.py").write_text(code)
    command = ["--devices", "2", "--torchrun", "--", str(tmp_path / "script.py")]
    return subprocess.run(
        [sys.executable, "-m", "segtune.launch", *command, *THREAD_VARIABLES],
        # As Snakemake does.
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "6")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_processes_sum_and_gather(tmp_path: Path) -> None:
    result = torchrun(tmp_path, COMMUNICATE)
    assert result.returncode == 0, result.stderr
    assert "sum [2.0, 1.0] all [{'rank': 0}, {'rank': 1}] of 2" in result.stdout
    assert "threads 3 3 3 3 3 3" in result.stdout


# A launcher that finds two GPUs, with a time in which processes must end.
LAUNCHER = """
from segtune import launch
from segtune.core.leases import Device
launch.visible_devices = lambda: [Device("0", "a"), Device("1", "b")]
launch.SHUTDOWN_SECONDS = {}
launch.main()
"""
# Each process starts another one, as for reading data; it notes both.
WAIT = """
import os, sys, time
from pathlib import Path
from segtune.core.processes import process_group
with process_group() as processes:
    child = os.fork()
    if child:
        pids = Path(sys.argv[0]).with_name(f"{processes.rank}.pids")
        pids.with_suffix(".new").write_text(f"{os.getpid()} {child}")
        pids.with_suffix(".new").rename(pids)
    time.sleep(120)
"""


@contextmanager
def launcher(
    tmp_path: Path, script: str, seconds: float = 300
) -> "Iterator[subprocess.Popen[str]]":
    """Start a script in two processes, with GPUs that are made up."""
    (tmp_path / "launcher.py").write_text(LAUNCHER.format(seconds))
    (tmp_path / "script.py").write_text(script)
    command = [str(tmp_path / "launcher.py"), "--devices", "2", "--torchrun", "--"]
    with subprocess.Popen(
        [sys.executable, *command, str(tmp_path / "script.py")],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl")
def test_no_process_outlives_its_launcher_but_leases_last_as_long_as_one_lives(
    tmp_path: Path,
) -> None:
    with launcher(tmp_path, WAIT) as process:
        files = [tmp_path / f"{rank}.pids" for rank in (0, 1)]
        wait_until(lambda: all(file.exists() for file in files))
        process.kill()
        process.wait()
        pids = [[int(pid) for pid in file.read_text().split()] for file in files]
        wait_until(lambda: not any(is_running(pid) for pid, _ in pids))
        for _, child in pids:
            assert not is_free(tmp_path)
            os.kill(child, signal.SIGKILL)
    wait_until(lambda: is_free(tmp_path))


def is_free(tmp_path: Path) -> bool:
    """Whether no process has a lease of the first device."""
    with (tmp_path / f"segtune-devices-{os.getuid()}" / "a").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# Each process needs some time to save.
SAVE = r"""
import signal, sys, time
from segtune.core.parent import end_with_parent
end_with_parent()
write = sys.stdout.write  # in one piece: two processes write to one pipe
arrived = []
signal.signal(signal.SIGTERM, lambda *_: arrived.append(1))
write("ready\n")
while not arrived:
    time.sleep(0.02)
write("saving\n")
time.sleep({})
write("saved\n")
sys.exit(130)
"""


def lines_of(process: "subprocess.Popen[str]", text: str, count: int = 2) -> None:
    """Wait until there have been so many lines with this text."""
    assert process.stdout
    while count:
        line = process.stdout.readline()
        assert line, "has ended"
        count -= text in line


def test_processes_that_are_told_to_stop_can_save(tmp_path: Path) -> None:
    with launcher(tmp_path, SAVE.format(4)) as process:
        lines_of(process, "ready")
        process.send_signal(signal.SIGINT)
        lines_of(process, "saving")
        for number in (signal.SIGTERM, signal.SIGINT):  # an impatient user
            process.send_signal(number)
            time.sleep(0.2)
        output, _ = process.communicate(timeout=60)
    assert output.count("saved") == 2
    assert "Traceback" not in output
    assert process.returncode == 130


def test_processes_that_do_not_stop_are_killed(tmp_path: Path) -> None:
    with launcher(tmp_path, SAVE.format(60), seconds=1) as process:
        lines_of(process, "ready")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert "saved" not in output
    assert "segtune launch: killed processes that had not ended after 1 s" in output
    assert process.returncode == 128 + signal.SIGKILL


@pytest.fixture
def signals(signal_handlers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what the launcher changes in this process."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("exit_codes", "status", "message"),
    [
        ([1, -9], 137, "segtune launch: process 1 was ended by SIGKILL; is the memory full?\n"),
        ([-15, -11], 139, "segtune launch: process 1 was ended by SIGSEGV\n"),
        ([-15, 1], 1, ""),
        ([1, 3], 3, ""),
        ([130, 1], 130, ""),
    ],
)
def test_the_process_that_failed_first_decides_the_exit_status(
    exit_codes: list[int],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(arguments: list[str]) -> None:
        failures = {rank: ProcessFailure(rank, 0, code, "") for rank, code in enumerate(exit_codes)}
        for failure in failures.values():
            failure.timestamp = 0
        raise ChildFailedError("test", failures)

    monkeypatch.setattr("segtune.launch.visible_devices", list)
    monkeypatch.setattr("torch.distributed.run.main", fail)
    with pytest.raises(SystemExit) as raised:
        main(["--devices", "2", "--torchrun", "--", "script.py"])
    assert raised.value.code == status
    assert capsys.readouterr().err == message


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_exit_status_of_a_failed_process_is_passed_on_without_a_traceback(
    tmp_path: Path,
) -> None:
    result = torchrun(tmp_path, FAIL)
    assert result.returncode == 3
    assert "Traceback" not in result.stderr


def test_a_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--devices", "1"])
    assert "command" in capsys.readouterr().err
