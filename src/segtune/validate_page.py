"""Make the page of a validation report."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.core.config import parse_section
from segtune.core.console import log_line
from segtune.core.errors import exit_on_error
from segtune.core.validate_settings import ValidateSettings
from segtune.dataset.coco import SPLITS, read_unchecked_split
from segtune.dataset.findings import read_report
from segtune.dataset.gate import require_fresh
from segtune.reports.validation_page import write_validation_page


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="segtune.validate_page", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument("--report", type=Path, required=True, help="report.json of validate")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("--settings", default="{}", help="the validate section, as JSON")
    arguments = parser.parse_args(argv)
    with exit_on_error("validate_page"):
        settings = parse_section(ValidateSettings, arguments.settings)
        report = read_report(arguments.report)
        require_fresh(report.fingerprint, arguments.coco, arguments.report)
        splits = [read_unchecked_split(arguments.coco / f"{name}.json") for name in SPLITS]
        write_validation_page(arguments.out, report, splits, settings.max_examples)
        log_line(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
