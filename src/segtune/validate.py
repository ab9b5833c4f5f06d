"""Check a converted dataset before anything expensive is run on it.

Errors are what later stages cannot work with, warnings what makes their results doubtful.
The report is written either way; with errors the exit status is 1.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.core.console import log_line
from segtune.core.errors import DatasetError, exit_on_error
from segtune.core.typed_json import write_typed
from segtune.dataset.checks import Problem, check_dataset
from segtune.dataset.coco import SPLITS, read_manifest, read_split

MAX_PRINTED = 3  # examples per problem; the report has more


def main(argv: Sequence[str] | None = None) -> None:
    """Write `report.json`; fail if there are errors."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("validate"):
        splits = [read_split(arguments.coco / f"{name}.json") for name in SPLITS]
        report = check_dataset(splits, read_manifest(arguments.coco))
        path = arguments.out / "report.json"
        write_typed(path, report)
        for warning in report.warnings:
            log_line(f"warning: {_line(warning)}")
        if report.errors:
            raise DatasetError(
                "; ".join(map(_line, report.errors)),
                file=arguments.coco,
                fix=f"More examples are in {path}",
            )
        log_line(f"valid: {sum(len(split.images) for split in splits)} images")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.validate", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    return parser


def _line(found: Problem) -> str:
    examples = ", ".join(found.examples[:MAX_PRINTED])
    more = found.count - MAX_PRINTED
    places = f"{examples} and {more} more" if more > 0 else examples
    return f"{found.problem} ({places}): {found.fix}"


if __name__ == "__main__":
    main()
