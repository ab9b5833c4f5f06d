"""Make the page of a finished training run."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.core.console import log_line
from segtune.core.errors import exit_on_error
from segtune.dataset.coco import read_split
from segtune.dataset.detections import read_detections
from segtune.reports.training_page import read_training_run, write_training_page


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("train_page"):
        valid = read_split(arguments.coco)
        write_training_page(
            arguments.out,
            run=read_training_run(arguments.train),
            valid=valid,
            base=read_detections(arguments.train / "valid_base.json", valid),
            best=read_detections(arguments.train / "valid_best.json", valid),
        )
        log_line(f"wrote {arguments.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.train_page", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="the valid split")
    parser.add_argument("--train", type=Path, required=True, help="folder of segtune.train")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    return parser


if __name__ == "__main__":
    main()
