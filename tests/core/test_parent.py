"""A process does not outlive the one that is named as its parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.running import is_running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl")

CHILD = "import time\nfrom segtune.core.parent import end_with_parent\nend_with_parent()\n"
# Starts a child, prints its process id as soon as it is guarded, and is killed.
PARENT = f"""
import os, signal, subprocess, sys
from segtune.core.parent import name_parent
name_parent()
code = {CHILD + "print('ready', flush=True); time.sleep(60)"!r}
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_child_dies_with_its_killed_parent() -> None:
    result = subprocess.run(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, check=False
    )
    assert result.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while is_running(int(result.stdout)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(int(result.stdout))


def test_a_parent_that_died_before_is_noticed() -> None:
    environment = {**os.environ, "SEGTUNE_PARENT": "1"}
    result = subprocess.run([sys.executable, "-c", CHILD], env=environment, check=False)
    assert result.returncode == -signal.SIGKILL


def test_without_a_named_parent_nothing_happens() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "SEGTUNE_PARENT"}
    subprocess.run([sys.executable, "-c", CHILD], env=environment, check=True)
