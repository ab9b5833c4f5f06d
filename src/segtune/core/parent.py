"""Processes that end with the process that started them, however that one ends."""

import ctypes
import os
import signal
import sys

PARENT = "SEGTUNE_PARENT"  # the environment variable that names the parent
PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>


def name_parent() -> None:
    """Name this process as the one without which those that it starts must end."""
    os.environ[PARENT] = str(os.getpid())


def end_with_parent() -> None:
    """Have the kernel kill this process when the named parent dies; elsewhere than on Linux, no-op.

    A parent that is killed cannot end its processes itself. They would wait for each other, hold
    the locks of the run, and keep a GPU busy.
    """
    parent = os.environ.get(PARENT)
    if parent is None or sys.platform != "linux":
        return
    end_with_creator()
    if os.getppid() != int(parent):  # it died before this
        os.kill(os.getpid(), signal.SIGKILL)


def end_with_creator(number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel signal this process when its parent dies; elsewhere than on Linux, no-op.

    A forked process has the connections and locks of its parent: while it lives, nobody notices
    that the parent has died.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
