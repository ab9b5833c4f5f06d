"""Check a converted dataset before anything expensive is run on it.

Errors stop later stages from working; warnings cast doubt on their results. The report is
written either way. With errors, the exit status is 1, and a page of them is written as well:
Snakemake removes the report of a failed job.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.core.config import QUERIES
from segtune.core.console import log_line
from segtune.core.errors import DatasetError, exit_on_error
from segtune.core.typed_json import write_typed
from segtune.dataset.checks import MAX_EXAMPLES, Problem, check_dataset
from segtune.dataset.coco import SPLITS, read_manifest, read_unchecked_split
from segtune.reports.validation_page import write_validation_page

MAX_PRINTED = 3  # examples per problem; the report has more
MAX_LENGTH = 300  # characters of an example


def main(argv: Sequence[str] | None = None) -> None:
    """Write `report.json`; if there are errors, write `errors.html` and fail."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("validate"):
        splits = [read_unchecked_split(arguments.coco / f"{name}.json") for name in SPLITS]
        manifest = read_manifest(arguments.coco)
        report = check_dataset(splits, manifest, queries=QUERIES[arguments.model])
        write_typed(arguments.out / "report.json", report)
        for warning in report.warnings:
            log_line(f"WARNING: {_line(warning)}")
        page = arguments.out / "errors.html"
        page.unlink(missing_ok=True)
        if report.errors:
            write_validation_page(page, report, MAX_EXAMPLES)
            raise DatasetError(
                "; ".join(map(_line, report.errors)),
                file=arguments.coco,
                fix=f"See {page}",
            )
        log_line(f"valid: {sum(len(split.images) for split in splits)} images")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.validate", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--model", choices=sorted(QUERIES), default="tiny", help="to be trained")
    return parser


def _line(found: Problem) -> str:
    examples = ", ".join(example[:MAX_LENGTH] for example in found.examples[:MAX_PRINTED])
    more = found.count - MAX_PRINTED
    places = f"{examples} and {more} more" if more > 0 else examples
    return f"{found.problem} ({places}): {found.fix}"


if __name__ == "__main__":
    main()
