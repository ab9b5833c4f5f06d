"""The page of a validation report."""

from pathlib import Path

from segtune.dataset.checks import DatasetReport
from segtune.reports.page import write_page


def write_validation_page(path: Path, report: DatasetReport, max_examples: int) -> None:
    """Write the page of a report.

    Args:
        path: of the HTML file.
        report: of the dataset.
        max_examples: shown per problem.
    """
    tone, status, heading = _verdict(report)
    write_page(
        path,
        "validation_page.html.j2",
        tone=tone,
        status=status,
        heading=heading,
        report=report,
        classes=list(next(iter(report.splits.values())).per_class),
        max_examples=max_examples,
    )


def _verdict(report: DatasetReport) -> tuple[str, str, str]:
    errors, warnings = len(report.errors), len(report.warnings)
    if errors:
        return "bad", "Errors", f"The dataset has errors of {_count(errors, 'kind')}"
    if warnings:
        return (
            "neutral",
            "Valid, with warnings",
            f"The dataset is valid, with warnings of {_count(warnings, 'kind')}",
        )
    return "good", "Valid", "The dataset is valid"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
