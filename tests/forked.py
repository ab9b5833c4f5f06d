"""Commands in processes of their own that start at once.

They are forked from a process that has imported torch, sam3 and Snakemake already, which takes
longer than what most tests run. Otherwise they are like others: signals, exit status,
environment, a session each.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

Target = Callable[[list[str]], None]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("segtune.train", "segtune.strength", "segtune.merge", "segtune.predict"),
        *("snakemake.cli", "snakemake.report.html_reporter"),
    ]
)


def main_of(command: str) -> Target:
    """The entry point of `segtune.<command>`."""
    target: Target = import_module(f"segtune.{command}").main
    return target


class Forked:
    """A running function; the interface is that of `subprocess.Popen`."""

    def __init__(
        self, target: Target, arguments: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> None:
        handle, name = tempfile.mkstemp(suffix=".log")
        os.close(handle)
        self._output = Path(name)
        environment = {**os.environ, **(variables or {})}
        self._process = _CONTEXT.Process(
            target=_run, args=(target, list(arguments), name, environment), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self._process.kill()
        self._process.join()

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for the end; what was written to stdout and stderr."""
        self._process.join(timeout)
        assert self.returncode is not None, "still running"
        text = self._output.read_text()
        self._output.unlink()
        return text, None


def _run(target: Target, arguments: list[str], output: str, environment: dict[str, str]) -> None:
    os.setsid()  # so that it can be killed as a group
    os.environ.clear()
    os.environ.update(environment)
    if "OMP_NUM_THREADS" in environment:  # which torch has read long ago
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.stdout.flush()
    with Path(output).open("w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    # Of a terminal or a pytest worker these would be others.
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
    target(arguments)
