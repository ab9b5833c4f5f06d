"""Steps of a Slurm job: when one is started, how, and how its nodes find each other."""

import os
from pathlib import Path

import pytest

from segtune.core.errors import ConfigError, ResourceError
from segtune.core.slurm import devices_per_node, needs_step, rendezvous, step, step_variables
from tests.cluster.pretended import pretend_slurm


@pytest.fixture
def in_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in job 31000, with Slurm's commands on the PATH."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ["PATH"] = f"{pretend_slurm(tmp_path / 'bin')}:{os.environ['PATH']}"
    os.environ["SLURM_JOB_ID"] = "31000"


def test_a_step_is_started_once_per_job_and_only_where_there_is_srun(
    in_job: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not needs_step({})
    assert needs_step({"SLURM_JOB_ID": "7"})
    inside = step_variables({"SLURM_JOB_ID": "7"})
    assert not needs_step(inside)
    assert needs_step({**inside, "SLURM_JOB_ID": "8"})  # which the first one has submitted
    monkeypatch.setitem(os.environ, "PATH", "/nowhere")  # in a container
    assert not needs_step({"SLURM_JOB_ID": "7"})


def test_a_step_gets_all_of_the_job_and_ends_as_a_whole() -> None:
    command = step(["python", "x.py"], nodes=2, name="n")
    assert command[0] == "srun"
    assert command[-2:] == ["python", "x.py"]
    # Without --overlap, it would wait for the step that waits for it.
    assert {"--overlap", "--kill-on-bad-exit=1", "--nodes=2", "--ntasks=2"} <= set(command)


def test_a_step_of_one_node_stays_on_it(in_job: None) -> None:
    os.environ["SLURMD_NODENAME"] = "node7"  # in a job of several
    assert "--nodelist=node7" in step(["x"], nodes=1, name="n")
    assert "--nodelist=node7" not in step(["x"], nodes=2, name="n")
    del os.environ["SLURMD_NODENAME"]  # as where `salloc` was called
    assert not [option for option in step(["x"], nodes=1, name="n") if "nodelist" in option]


def test_options_of_the_step_around_it_are_not_those_of_the_new_one() -> None:
    around = {
        "SLURM_JOB_ID": "7",
        "SLURM_CONF": "/etc/slurm.conf",
        "PATH": "/bin",
        "SLURM_NTASKS": "1",
        "SLURM_CPUS_PER_TASK": "16",
        "SRUN_CPUS_PER_TASK": "16",
    }
    kept = step_variables(around)
    assert kept.items() >= {"SLURM_JOB_ID": "7", "SLURM_CONF": "/etc/slurm.conf"}.items()
    assert kept["PATH"] == "/bin"
    assert not kept.keys() & {"SLURM_NTASKS", "SLURM_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK"}


def test_devices_are_divided_among_nodes(in_job: None) -> None:
    assert devices_per_node(3, 1) == 3
    assert devices_per_node(4, 2) == 2
    with pytest.raises(ConfigError, match=r"3 devices cannot be divided among 2 nodes.*`gpu`"):
        devices_per_node(3, 2)
    del os.environ["SLURM_JOB_ID"]
    assert devices_per_node(3, 1) == 3
    with pytest.raises(ConfigError, match="2 nodes requested outside of a Slurm job"):
        devices_per_node(4, 2)


def test_the_nodes_meet_at_the_first_of_them_with_ranks_by_number(in_job: None) -> None:
    assert rendezvous(1) == ["--standalone", "--local-addr=localhost"]
    os.environ |= {"SLURM_STEP_NODELIST": "pretended[1-2]", "SLURM_NODEID": "1"}
    options = set(rendezvous(2))
    assert options >= {"--nnodes=2", "--node_rank=1", "--master_addr=localhost"}
    assert options >= {"--rdzv_backend=static", "--master_port=16000"}
    os.environ["SLURM_STEP_NODELIST"] = "other"
    with pytest.raises(ResourceError, match=r"does not name the nodes.*\(not a list: other\)"):
        rendezvous(2)
