"""The page of suspected label errors: each as it is labeled, and as it would be corrected."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.dataset.coco import SPLITS, Split
from segtune.evaluation.label_issues import REASONS, Reason
from segtune.evaluation.label_repair import LabelRepairs, Repair
from segtune.reports.page import write_page
from segtune.reports.repair_thumbnails import before_and_after

MAX_SHOWN = 100  # issues with images, of each split
CHANGES: dict[Reason, str] = {
    "missing label": "the detection becomes a label",
    "wrong class": "the label gets the class of the detection",
    "poor localization": "the label gets the outline of the detection",
    "no object": "the label is removed",
}


@dataclass(frozen=True)
class Drawn:
    """An issue with its images, as data URIs."""

    issue: Repair
    before: str
    after: str


@dataclass(frozen=True)
class SplitIssues:
    """What the page says about one split."""

    name: str
    images: int
    counts: dict[Reason, int]
    drawn: list[Drawn]

    @property
    def total(self) -> int:
        """Its issues, whether they are drawn or not."""
        return sum(self.counts.values())


def write_label_issues_page(path: Path, repairs: LabelRepairs, splits: Mapping[str, Split]) -> None:
    """Write the page of suspected label errors.

    Args:
        path: of the HTML file.
        repairs: the issues, the likeliest first.
        splits: by name, whose images are read.

    Raises:
        DatasetError: when an image cannot be read.
    """
    count = len(repairs.issues)
    write_page(
        path,
        "label_issues_page.html.j2",
        tone="neutral",
        status="Label issues",
        heading=f"{count} suspected label error{'' if count == 1 else 's'}",
        min_score=repairs.min_score,
        splits=[
            _split_issues(splits[name], repairs.issues, repairs.images[name])
            for name in SPLITS
            if name in repairs.images
        ],
        changes=CHANGES,
        reasons=list(REASONS.values()),
    )


def _split_issues(split: Split, issues: Sequence[Repair], images: int) -> SplitIssues:
    own = [issue for issue in issues if issue.split == split.name]
    counts = Counter(issue.reason for issue in own)
    return SplitIssues(
        name=split.name,
        images=images,
        counts={reason: counts[reason] for reason in REASONS.values()},
        drawn=[Drawn(issue, *before_and_after(split, issue)) for issue in own[:MAX_SHOWN]],
    )
