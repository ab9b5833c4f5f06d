"""Leases of GPUs, with processes that hold them."""

import fcntl
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from segtune.core.errors import BusyError, ConfigError, ResourceError
from segtune.core.leases import LEASES, Device, lease, share_leases

# Leases devices, given as NAME=UUID, says which, and waits for the end of its input.
HOLD = """
import sys
from segtune.core import leases
leases.POLL_SECONDS = 0.05
leases.REPORT_SECONDS = float(sys.argv[2])
devices = [leases.Device(*text.split("=")) for text in sys.argv[3:]]
leased = leases.lease(devices, int(sys.argv[1]), "segtune.train")
print("leased", *(device.name for device in leased), flush=True)
"""
WAIT = "sys.stdin.read()"
# As torchrun does: the process that it starts inherits no files.
START = """
import subprocess
child = "import sys; from segtune.core.leases import share_leases; share_leases();"
child += "print('shared', flush=True); sys.stdin.read()"
subprocess.run([sys.executable, "-c", child])
"""
THREE = ("0=a", "1=b", "2=c")

Holder = subprocess.Popen[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the locks."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv(LEASES, "")
    return tmp_path / f"segtune-devices-{os.getuid()}"


class Holders:
    """Processes that lease."""

    def __init__(self) -> None:
        self.started: list[Holder] = []

    def __call__(
        self, wanted: int, *devices: str, report_seconds: float = 300, then: str = WAIT
    ) -> Holder:
        arguments = [str(wanted), str(report_seconds), *devices]
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD + then, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process


@pytest.fixture
def hold() -> Iterator[Holders]:
    holders = Holders()
    yield holders
    for process in holders.started:
        process.kill()
        with process:  # closes its pipes, so that what it has started ends too
            pass


def line(process: Holder) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_two_jobs_never_share_a_device_and_a_dead_one_releases_its_own(hold: Holders) -> None:
    first = hold(2, *THREE)
    assert line(first) == "leased 0 1"
    assert line(hold(1, *THREE)) == "leased 2"
    waiting = hold(2, *THREE)
    used = f"is used by the job that began as process {first.pid} (segtune.train)"
    assert line(waiting).startswith(f"waiting for 2 of 3 GPUs: 0 {used}; 1 {used}; 2 is used")
    first.kill()
    assert line(waiting) == "leased 0 1"


def test_a_job_that_cannot_have_all_keeps_none(hold: Holders) -> None:
    assert line(hold(1, "0=a")) == "leased 0"
    waiting = hold(2, "0=a", "1=b")
    assert line(waiting).startswith("waiting for 2 of 2 GPUs: 0 is used by")
    assert line(hold(1, "1=b")) == "leased 1"


def test_devices_are_told_apart_by_their_uuid(hold: Holders) -> None:
    # Two jobs on a node of a cluster have a device 0 each.
    assert line(hold(1, "0=a")) == "leased 0"
    assert line(hold(1, "0=b")) == "leased 0"
    assert line(hold(1, "GPU-a=a")).startswith("waiting for 1 of 1 GPUs: GPU-a is used by")


def test_a_job_that_waits_says_so_now_and_then(hold: Holders) -> None:
    assert line(hold(1, "0=a")) == "leased 0"
    often = hold(1, "0=a", report_seconds=0.1)
    rarely = hold(1, "0=a")
    assert line(often) == line(often) == line(often) == line(rarely)
    assert not select.select([rarely.stdout], [], [], 0)[0]


def test_a_lease_outlives_the_launcher_while_a_process_of_the_job_lives(hold: Holders) -> None:
    launcher = hold(1, "0=a", then=START)
    assert (line(launcher), line(launcher)) == ("leased 0", "shared")
    waiting = hold(1, "0=a", report_seconds=0.2)
    launcher.kill()
    launcher.wait()
    for _ in range(4):
        assert line(waiting).startswith("waiting for 1 of 1 GPUs: 0 is used by the job that began")
    assert launcher.stdin
    launcher.stdin.close()  # so that the other process ends
    found = line(waiting)
    while found.startswith("waiting"):
        found = line(waiting)
    assert found == "leased 0"


def test_jobs_choose_one_after_the_other(hold: Holders, folder: Path) -> None:
    # Otherwise two could have the same device, because a lock that is changed is free meanwhile.
    folder.mkdir()
    with (folder / "choosing").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = hold(1, "0=a", then="")
        time.sleep(1)
        assert process.poll() is None
    assert line(process) == "leased 0"


def test_a_lease_that_another_job_has_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    monkeypatch.setenv(LEASES, str(path))
    share_leases()
    with path.open("w") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    other = tmp_path / "other"
    monkeypatch.setenv(LEASES, f"{path}:{other}")
    with other.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match=r"other: another job has leased this GPU"):
            share_leases()


def test_more_devices_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"3 devices requested, 2 visible: 4, 5.*gpu=N"):
        lease([Device("4", "a"), Device("5", "b")], 3, "segtune.train")


def test_a_folder_that_cannot_be_used_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_text("")
    with pytest.raises(ResourceError, match=r"cannot lock GPUs here \(File exists\).*TMPDIR"):
        lease([Device("0", "a")], 1, "segtune.train")
    monkeypatch.setenv(LEASES, str(folder / "a"))
    with pytest.raises(ResourceError, match=r"cannot lock GPUs here \(Not a directory\)"):
        share_leases()
