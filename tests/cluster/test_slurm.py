"""The workflow on a real Slurm of two nodes: the results of one machine, also after interruptions.

By hand, as root, with Debian's packages (tests/cluster/two_nodes.py) and the plugin:
`pip install snakemake-executor-plugin-slurm -c requirements.lock`, then
`pytest -m slow tests/cluster -s`, which takes about 15 minutes on 2 cores.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.two_nodes import missing, two_nodes
from tests.snakemake_runs import copy_shipped

ROOT = Path(__file__).parents[2]
# One thread per process: with more, a run differs from itself in the last digits.
COMMON = ("--max-threads", "1", "--config", "train={epochs: 2}")
# A job for which Slurm preempts another one, which it puts into the queue again.
URGENT = "sbatch --partition=urgent --nodes=2 --exclusive --output=/dev/null --wrap=true"
ADAPTER = "train/adapter/adapter_model.safetensors"


def reason() -> str:
    """Why these tests cannot run here; empty where they can."""
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        return "not installed: snakemake-executor-plugin-slurm"
    return missing()


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(reason()), reason=reason()),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with two_nodes(tmp_path_factory.mktemp("slurm")) as variables:
        yield variables


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is shipped, with the results of the default workflow on this machine."""
    folder = tmp_path_factory.mktemp("checkout")
    copy_shipped(folder)
    shutil.copytree(ROOT / "data", folder / "data")
    with snakemake(folder, {}, "--cores", "2", *COMMON, "results=local") as process:
        assert process.wait() == 0
    return folder


@contextmanager
def snakemake(
    folder: Path, variables: dict[str, str], *arguments: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Snakemake as a command; what it prints is for those who run the tests by hand."""
    environment = {name: v for name, v in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "snakemake", *arguments]
    with subprocess.Popen(command, cwd=folder, env={**environment, **variables}) as process:
        try:
            yield process
        finally:
            process.terminate()


def on_slurm(folder: Path, slurm: dict[str, str], *arguments: str) -> Any:
    """The same through the profile, looking often at how jobs are doing."""
    profile = ("--workflow-profile", "profiles/slurm")
    often = ("--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "5")
    return snakemake(folder, slurm, *profile, *often, *arguments)


def steps(history: Path) -> list[Any]:
    """The optimizer steps in a history, without how long they took."""
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[bytes]") -> Any:
    """What a condition answers as soon as that is true; Snakemake must not end before."""
    while not (answer := condition()):
        assert process.poll() is None
        time.sleep(0.2)
    return answer


def test_the_default_workflow_has_the_results_of_one_machine(
    checkout: Path, slurm: dict[str, str]
) -> None:
    with on_slurm(checkout, slurm, *COMMON, "results=slurm") as process:
        assert process.wait() == 0
    for name in ("evaluate/metrics.json", ADAPTER):
        assert (checkout / "slurm" / name).read_bytes() == (checkout / "local" / name).read_bytes()


def test_training_resumes_after_scancel_and_preemption_to_the_same_adapter(
    checkout: Path, slurm: dict[str, str]
) -> None:
    results = copied(checkout, "interrupted")
    log = results / "logs/train.log"

    def has(text: str, count: int = 1) -> bool:
        return log.exists() and log.read_text().count(text) >= count

    config = (*COMMON, "results=interrupted", "--", "train")
    with on_slurm(checkout, slurm, *config) as process:
        wait_for(lambda: has("epoch 1/2 step"), process)
        command("scancel", newest_job(slurm), slurm)  # Snakemake tries again
        wait_for(lambda: has("resuming after step"), process)
        wait_for(lambda: has("epoch 2/2 step"), process)
        command(URGENT, "", slurm)
        assert process.wait() == 0
    text = log.read_text()
    assert text.count("; the same command resumes the run") == 2
    assert text.count("resuming after step") == 2
    assert steps(results / "train/history.jsonl") == steps(checkout / "local/train/history.jsonl")
    assert (results / ADAPTER).read_bytes() == (checkout / "local" / ADAPTER).read_bytes()


def test_two_nodes_train_the_adapter_of_one(checkout: Path, slurm: dict[str, str]) -> None:
    results = copied(checkout, "nodes")
    resources = ("nodes=2", "gpu=2", "mpi=srun", "tasks=2", "slurm_extra=--gpus-per-node=1")
    config = (*COMMON, "results=nodes", "--set-resources", *(f"train:{one}" for one in resources))
    with on_slurm(checkout, slurm, *config, "--", "train") as process:
        assert process.wait() == 0
    assert (results / ADAPTER).read_bytes() == (checkout / "local" / ADAPTER).read_bytes()


def copied(checkout: Path, name: str) -> Path:
    """Results in which only the training is missing."""
    for part in ("coco", "validate"):
        shutil.copytree(checkout / "local" / part, checkout / name / part, symlinks=True)
    return checkout / name


def newest_job(slurm: dict[str, str]) -> str:
    return command("squeue --noheader --states=running --format=%i", "", slurm).split()[-1]


def command(text: str, job: str, slurm: dict[str, str]) -> str:
    return subprocess.run(
        [*text.split(), *job.split()],
        env={**os.environ, **slurm},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
