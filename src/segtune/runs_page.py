"""Make the page of a comparison of runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.core.console import log_line
from segtune.core.errors import exit_on_error
from segtune.evaluation.runs_file import read_runs
from segtune.reports.runs_page import write_runs_page


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="segtune.runs_page", description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="runs.json of segtune.runs")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    arguments = parser.parse_args(argv)
    with exit_on_error("runs_page"):
        write_runs_page(arguments.out, read_runs(arguments.runs))
        log_line(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
