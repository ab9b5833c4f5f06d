"""The log of an interrupted training continues where it ended, though Snakemake removes it."""

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/log.sh"


def write(log: Path, checkpoints: Path, text: str) -> str:
    """What the log contains after a job that Snakemake has started has written this."""
    log.unlink(missing_ok=True)
    command = ["sh", str(SCRIPT), str(log), str(checkpoints)]
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == text
    return log.read_text()


def test_a_log_continues_where_a_run_resumes_and_starts_anew_elsewhere(tmp_path: Path) -> None:
    log, checkpoints = tmp_path / "the train.log", tmp_path / "with a space" / "checkpoints"
    assert write(log, checkpoints, "refused\n") == "refused\n"
    assert write(log, checkpoints, "stopped\n") == "stopped\n"
    (checkpoints / "run").mkdir()
    (checkpoints / "run" / "state-1.pt").touch()
    assert write(log, checkpoints, "resuming\n") == "stopped\nresuming\n"
    assert write(log, checkpoints, "finished\n") == "stopped\nresuming\nfinished\n"
    (checkpoints / "run" / "state-1.pt").unlink()
    assert write(log, checkpoints, "another\n") == "another\n"
