"""One training by two torchruns, as on two nodes, with a srun that is pretended."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.cluster.pretended import pretend_slurm
from tests.converted import write_converted
from tests.first_steps import main
from tests.ranks import run_ranks

ROOT = Path(__file__).parents[2]


def test_two_nodes_take_the_steps_of_one_process(tmp_path: Path) -> None:
    coco = write_converted(tmp_path) / "train.json"
    run_ranks(main, [str(coco), str(tmp_path / "one.pt"), "4"], 1)
    binaries = pretend_slurm(tmp_path / "bin")
    script = tmp_path / "script.py"
    script.write_text("import sys\nfrom tests.first_steps import main\nmain(sys.argv[1:])\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "segtune.launch", "--devices", "2", "--nodes", "2"),
            *("--torchrun", "--", str(script)),
            *(str(coco), str(tmp_path / "two.pt"), "2"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    options = (binaries / "srun.arguments").read_text().splitlines()
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} <= set(options)
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("one", "two"))
    assert len(one["values"]) == 3  # optimizer steps, in double precision
    for before, after in zip(one["values"], two["values"], strict=True):
        for name, value in before.items():
            assert (after[name] - value).norm() <= 1e-9 * value.norm(), name
