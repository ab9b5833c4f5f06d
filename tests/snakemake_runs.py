"""Snakemake in a test: as a command, or forked for what it only plans."""

import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.forked import Forked

ROOT = Path(__file__).parents[1]
GROUPS = ("all", "predict", "label", "suggest")  # rules that make nothing
SHIPPED = ("Snakefile", "config.yaml", "workflow", "profiles", "presets", "src")


def copy_shipped(folder: Path) -> None:
    """What a user has, but for the demo."""
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)


@dataclass(frozen=True)
class Answer:
    """How Snakemake ended, and all that it printed."""

    returncode: int
    stdout: str


def snakemake(folder: Path, *arguments: str) -> Answer:
    """The command, as a user starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Answer(done.returncode, done.stdout)


def dry_run(folder: Path, *arguments: str) -> Answer:
    """The same with `--dry-run`; forked, because importing Snakemake takes most of that time."""
    process = Forked(_run_in, [str(folder), "--dry-run", *arguments])
    output, _ = process.communicate(timeout=120)
    assert process.returncode is not None
    return Answer(process.returncode, output)


def planned_jobs(text: str) -> dict[str, int]:
    """How many jobs of each rule a dry run lists, but for rules that make nothing."""
    table = text.partition("Job stats:")[2].partition("total")[0]
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}
    return {rule: n for rule, n in jobs.items() if rule not in GROUPS}


def _run_in(arguments: list[str]) -> None:
    folder, *given = arguments
    os.chdir(folder)
    # Snakemake must find the code of that folder, not what was imported before the fork; and
    # nothing but Snakemake may print what it logs.
    for name in [name for name in sys.modules if name.partition(".")[0] == "segtune"]:
        del sys.modules[name]
    logging.getLogger().handlers.clear()
    sys.argv = ["snakemake", *given]
    import_module("snakemake.cli").main(given)
