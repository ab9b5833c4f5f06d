"""Make the page of suspected label errors: each before and after its correction."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from segtune.core.console import log_line
from segtune.core.errors import DatasetError, exit_on_error
from segtune.dataset.coco import SPLITS, Image, Split, read_split
from segtune.dataset.findings import is_finite
from segtune.dataset.masks import box_to_polygon, require_usable
from segtune.evaluation.label_repair import FIX, LabelRepairs, Repair, read_repairs
from segtune.reports.label_issues_page import write_label_issues_page


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("label_issues_page"):
        repairs = read_repairs(arguments.issues)
        splits = {name: read_split(arguments.coco / f"{name}.json") for name in SPLITS}
        _require_same_data(repairs, splits, arguments.issues)
        write_label_issues_page(arguments.out, repairs, splits)
        log_line(f"wrote {arguments.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.label_issues_page", description=__doc__)
    parser.add_argument("--issues", type=Path, required=True, help="issues.json of label_issues")
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    return parser


def _require_same_data(repairs: LabelRepairs, splits: Mapping[str, Split], path: Path) -> None:
    images = {(name, image.id): image for name, split in splits.items() for image in split.images}
    labels = {(name, a.image_id, a.id) for name, split in splits.items() for a in split.objects}
    classes = {category.name for split in splits.values() for category in split.categories}
    for issue in repairs.issues:
        image = images.get((issue.split, issue.image_id))
        label = (issue.split, issue.image_id, issue.annotation_id)
        known = image is not None and image.file_name == issue.file_name
        if issue.annotation_id is not None:
            known &= label in labels
        if not image or not known or not _can_be_drawn(issue, image, classes):
            raise DatasetError(
                "this issue is of another dataset",
                file=path,
                record=f"{issue.split} {issue.file_name}",
                fix=f"{FIX} for this dataset",
            )


def _can_be_drawn(issue: Repair, image: Image, classes: Collection[str]) -> bool:
    proposal = issue.proposal
    if not proposal:
        return issue.annotation_id is not None and is_finite(issue.bbox_xywh)
    try:
        require_usable(
            proposal.segmentation or [box_to_polygon(proposal.bbox_xywh)], image.height, image.width
        )
    except ValueError:
        return False
    return proposal.label in classes and all(map(is_finite, (issue.bbox_xywh, proposal.bbox_xywh)))


if __name__ == "__main__":
    main()
