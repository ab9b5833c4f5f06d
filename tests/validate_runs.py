"""Validating a small converted dataset in a test: its report and its page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segtune import validate_page
from segtune.convert import main as convert
from segtune.validate import main
from tests.export_writer import write_export


def write_dataset(folder: Path) -> Path:
    """Convert a small export; return the folder of the splits."""
    convert(["--export", str(write_export(folder / "export")), "--out", str(folder / "coco")])
    return folder / "coco"


def validate(coco: Path, *more: str) -> dict[str, Any]:
    """Run the command; return its report."""
    main(["--coco", str(coco), "--out", str(coco.parent / "validate"), *more])
    return report_of(coco)


def report_of(coco: Path) -> dict[str, Any]:
    """The report that was written, also where validation failed."""
    report: dict[str, Any] = json.loads((coco.parent / "validate" / "report.json").read_text())
    return report


def page_of(coco: Path, **settings: Any) -> str:
    """The page of the report."""
    folder = coco.parent / "validate"
    command = ["--report", str(folder / "report.json"), "--out", str(folder / "report.html")]
    validate_page.main([*command, "--settings", json.dumps(settings)])
    return (folder / "report.html").read_text("utf-8")


def edit(coco: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the values of a split or of the manifest."""
    path = coco / f"{name}.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
