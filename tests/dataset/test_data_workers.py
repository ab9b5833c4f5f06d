"""Processes that read ahead: they end with theirs, even where nobody has closed them."""

import subprocess
import sys

SCRIPT = """
from segtune.dataset.data_workers import read_ahead
reading = read_ahead(abs, range(100), workers=1)
print(next(reading))
"""


def test_workers_that_are_still_reading_do_not_keep_their_process_from_ending() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
