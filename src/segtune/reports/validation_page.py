"""The page of a validation report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.core.validate_settings import Severity
from segtune.dataset.coco import Split
from segtune.dataset.findings import DatasetReport, Finding, Place
from segtune.reports.finding_thumbnails import Images, Thumbnail, images_by_name, thumbnails
from segtune.reports.page import write_page
from segtune.reports.validation_charts import histogram_chart

MAX_THUMBNAILS = 6  # examples with thumbnails, per rule
MEANINGS: dict[Severity, tuple[str, str]] = {
    "error": ("Errors", "Nothing is trained before these are fixed, or their severity is changed."),
    "warning": ("Warnings", "These make later results doubtful."),
    "info": ("Infos", "Worth knowing; perhaps all of it is intended."),
}


@dataclass(frozen=True)
class Shown:
    """A finding, its first examples with thumbnails, and others without."""

    finding: Finding
    drawn: list[tuple[Place, list[Thumbnail]]]
    listed: list[Place]


def write_validation_page(
    path: Path, report: DatasetReport, splits: Sequence[Split], max_examples: int
) -> None:
    """Write the page of a report.

    Args:
        path: of the HTML file.
        report: of the dataset.
        splits: of the dataset, some of whose images are read.
        max_examples: shown per rule.
    """
    tone, status, heading = _verdict(report)
    images = images_by_name(splits)
    write_page(
        path,
        "validation_page.html.j2",
        tone=tone,
        status=status,
        heading=heading,
        report=report,
        groups=[
            (title, meaning, [_shown(finding, images, max_examples) for finding in report.of(kind)])
            for kind, (title, meaning) in MEANINGS.items()
        ],
        charts=[(histogram, histogram_chart(histogram)) for histogram in report.histograms],
        classes=list(next(iter(report.splits.values())).per_class),
    )


def _shown(finding: Finding, images: Images, max_examples: int) -> Shown:
    drawn: list[tuple[Place, list[Thumbnail]]] = []
    listed: list[Place] = []
    for place in finding.examples[:max_examples]:
        found = thumbnails(place, images) if len(drawn) < MAX_THUMBNAILS else []
        if found:
            drawn.append((place, found))
        else:
            listed.append(place)
    return Shown(finding, drawn, listed)


def _verdict(report: DatasetReport) -> tuple[str, str, str]:
    errors, warnings = len(report.of("error")), len(report.of("warning"))
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
