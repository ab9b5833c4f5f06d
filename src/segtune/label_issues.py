"""List suspected label errors of all splits, and write the corrected labels as a COCO patch.

Where the fine-tuned model is confident and a label disagrees, a correction is proposed. How far
detections on `train` can be trusted is measured on `valid`: the model has seen the labels of
`train`, so its own precision there would be too high.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from segtune.core.config import parse_section
from segtune.core.console import log_line
from segtune.core.errors import exit_on_error
from segtune.core.label_issues_settings import LabelIssuesSettings
from segtune.core.publishing import published
from segtune.dataset.coco import SPLITS, Split, read_split, with_rle_masks
from segtune.dataset.detections import Detections, read_detections
from segtune.evaluation.assessment import main_kind, match_detections
from segtune.evaluation.label_patch import write_patch
from segtune.evaluation.label_repair import (
    LabelRepairs,
    Repair,
    propose_repairs,
    write_repairs,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Write `issues.json`, and `patch/` with a COCO file for each split."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("label_issues"), published(arguments.out) as folder:
        settings = parse_section(LabelIssuesSettings, arguments.settings)
        splits = {name: read_split(arguments.coco / f"{name}.json") for name in SPLITS}
        detections = {
            name: read_detections(vars(arguments)[name], split) for name, split in splits.items()
        }
        issues = find_repairs(splits, detections, settings.min_score)
        counts = {name: len(splits[name].images) for name in _listed(splits)}
        write_repairs(folder / "issues.json", LabelRepairs(settings.min_score, counts, issues))
        for name, split in splits.items():
            found = [issue for issue in issues if issue.split == name]
            write_patch(folder / "patch" / name / "_annotations.coco.json", split, found)
    for name, count in Counter(issue.split for issue in issues).items():
        log_line(f"{name}: {count} suspected label errors")
    log_line(f"{len(issues)} suspected label errors: {arguments.out / 'issues.json'}")


def find_repairs(
    splits: dict[str, Split], detections: dict[str, Detections], min_score: float
) -> list[Repair]:
    """The issues of all splits, the likeliest first.

    Where `valid` stands in for a missing test split, its images are listed once, as `valid`.

    Args:
        splits: by name.
        detections: of the fine-tuned model, by split.
        min_score: issue score of an issue, at least.
    """
    kinds = {name: main_kind(split) for name, split in splits.items()}
    matches = {
        name: match_detections(with_rle_masks(splits[name]), detections[name], kinds[name])
        for name in ("valid", "test")
    }
    issues = [
        repair
        for name in _listed(splits)
        for repair in propose_repairs(
            splits[name],
            detections[name],
            matches["test" if name == "test" else "valid"],
            kind=kinds[name],
            min_score=min_score,
        )
    ]
    return sorted(issues, key=lambda issue: -issue.issue_score)


def _listed(splits: dict[str, Split]) -> list[str]:
    """The splits without a test split in whose place `valid` stands."""
    valid, test = ({i.file_name for i in splits[name].images} for name in ("valid", "test"))
    return [name for name in SPLITS if name != "test" or not valid & test]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.label_issues", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    for name in SPLITS:
        parser.add_argument(
            f"--{name}", type=Path, required=True, help=f"fine-tuned predictions on {name}"
        )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--settings", default="{}", help="the label_issues section, as JSON")
    return parser


if __name__ == "__main__":
    main()
