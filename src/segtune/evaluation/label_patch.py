"""Corrected labels as COCO, for the images with issues: what a labeling tool imports."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from segtune.core.atomic import write_tables
from segtune.dataset.coco import Image, Split, annotation_record, image_record
from segtune.evaluation.label_repair import CorrectedLabel, Repair, corrected


def write_patch(path: Path, split: Split, repairs: Sequence[Repair]) -> None:
    """Write all labels of the images with issues after correction, atomically.

    Labeling tools replace the labels of an image by those that are imported. A corrected label has
    the reason in the field `segtune`, with the scores; an image has in `removed` the ids of labels
    that it no longer has.

    Args:
        path: of the JSON file.
        split: with the labels.
        repairs: of this split, at most one for each label.
    """
    after = corrected(split, repairs)
    names = _names(split.images)
    removed: dict[int, list[int]] = {}
    for repair in repairs:
        if repair.annotation_id is not None and not repair.proposal:
            removed.setdefault(repair.image_id, []).append(repair.annotation_id)
    images = [image for image in split.images if image.id in after]
    write_tables(
        path,
        {
            "images": (_image(i, names[i.id], sorted(removed.get(i.id, []))) for i in images),
            "categories": map(asdict, split.categories),
            "annotations": (_annotation(label) for i in images for label in after[i.id]),
        },
    )


def _image(image: Image, name: str, removed: Sequence[int]) -> dict[str, Any]:
    record = {**image_record(image), "file_name": name}
    if image.original:
        record["extra"] = {"name": image.original}
    return {**record, "removed": removed} if removed else record


def _annotation(label: CorrectedLabel) -> dict[str, Any]:
    record, repair = annotation_record(label.annotation), label.repair
    if not repair:
        return record
    scores = {"score": repair.score, "issue_score": repair.issue_score}
    return {**record, "segtune": repair.reason, **scores}


def _names(images: Sequence[Image]) -> dict[int, str]:
    """Image id -> its file name as labeling tools know it: without folders where that is unique."""
    names = {image.id: PurePosixPath(image.file_name).name for image in images}
    if max(Counter(names.values()).values(), default=0) <= 1:
        return names
    parents = [os.path.dirname(image.file_name) for image in images]  # noqa: PTH120
    common = os.path.commonpath(parents)
    return {image.id: os.path.relpath(image.file_name, common or ".") for image in images}
