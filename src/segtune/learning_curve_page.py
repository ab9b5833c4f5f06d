"""Make the page of a learning curve."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.core.console import log_line
from segtune.core.errors import exit_on_error
from segtune.evaluation.learning_curve import read_learning_curve
from segtune.reports.learning_curve_page import write_learning_curve_page


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="segtune.learning_curve_page", description=__doc__)
    parser.add_argument("--curve", type=Path, required=True, help="learning_curve.json")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    arguments = parser.parse_args(argv)
    with exit_on_error("learning_curve_page"):
        write_learning_curve_page(arguments.out, read_learning_curve(arguments.curve))
        log_line(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
