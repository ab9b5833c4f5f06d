"""Validating a small converted dataset in a test: its report and its page."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from segtune import validate_page
from segtune.validate import main


def validate(coco: Path, *more: str, **settings: Any) -> dict[str, Any]:
    """Run the command; return its report."""
    out = str(coco.parent / "validate")
    main(["--coco", str(coco), "--out", out, "--settings", json.dumps(settings), *more])
    return report_of(coco)


def report_of(coco: Path) -> dict[str, Any]:
    """The report that was written, also where validation failed."""
    report: dict[str, Any] = json.loads((coco.parent / "validate" / "report.json").read_text())
    return report


def found_in(coco: Path, *more: str, **settings: Any) -> dict[str, dict[str, Any]]:
    """Rule -> finding, also where validation fails."""
    with suppress(SystemExit):
        validate(coco, *more, **settings)
    return {finding["rule"]: finding for finding in report_of(coco)["findings"]}


def page_of(coco: Path, **settings: Any) -> str:
    """The page of the report."""
    folder = coco.parent / "validate"
    command = ["--report", str(folder / "report.json"), "--out", str(folder / "report.html")]
    validate_page.main(["--coco", str(coco), *command, "--settings", json.dumps(settings)])
    return (folder / "report.html").read_text("utf-8")
