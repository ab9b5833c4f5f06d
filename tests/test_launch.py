"""Leases of devices, divided threads, and processes that communicate."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from segtune.core.errors import ConfigError
from segtune.launch import THREAD_VARIABLES, divided_threads, lease, main, visible_devices
from tests.running import is_running

# Leases some of three devices, prints which, and waits for the end of its input.
HOLD = """
import sys
from pathlib import Path
from segtune.launch import lease
print(*lease(["0", "1", "2"], int(sys.argv[2]), Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def hold(folder: Path, wanted: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(folder), str(wanted)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout
    return process.stdout.readline().split()


def test_two_jobs_never_share_a_device_and_a_dead_one_releases_its_own(tmp_path: Path) -> None:
    first = hold(tmp_path, 2)
    assert read(first) == ["0", "1"]
    assert lease(["0", "1", "2"], 1, tmp_path) == ["2"]
    waiting = hold(tmp_path, 2)
    time.sleep(0.2)
    assert waiting.poll() is None
    first.kill()
    first.communicate()
    assert read(waiting) == ["0", "1"]
    waiting.communicate()


def test_more_devices_than_there_are_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"3 devices requested, 2 visible: 4, 5.*gpu=N"):
        lease(["4", "5"], 3, tmp_path)


def test_cuda_visible_devices_is_honored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("ctypes.CDLL", lambda name: None)  # after torch, which needs it
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc")
    assert visible_devices() == ["3", "GPU-abc"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert visible_devices() == []


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


WAIT = """
import os, sys, time
from pathlib import Path
from segtune.core.processes import process_group
with process_group() as processes:
    Path(sys.argv[0]).with_name(f"{processes.rank}.pid").write_text(str(os.getpid()))
    time.sleep(120)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl")
def test_no_process_outlives_its_launcher(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WAIT)
    command = [sys.executable, "-m", "segtune.launch", "--devices", "2", "--torchrun", "--"]
    launcher = subprocess.Popen([*command, str(script)], stderr=subprocess.DEVNULL)
    wait_until(lambda: all((tmp_path / f"{rank}.pid").exists() for rank in (0, 1)))
    launcher.kill()
    launcher.wait()
    pids = [int((tmp_path / f"{rank}.pid").read_text()) for rank in (0, 1)]
    wait_until(lambda: not any(map(is_running, pids)))


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
