"""Predictions as labels: a COCO dataset that labeling tools import and `segtune.convert` reads."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_utils

from segtune.core.atomic import write_tables
from segtune.core.errors import DatasetError, shown
from segtune.core.foreign import read_json
from segtune.dataset.coco import Split, image_record, require_usable_records, split_of_tables
from segtune.dataset.detections import require_score
from segtune.dataset.masks import rle_area, rle_bbox_xywh, segmentation_to_rle
from segtune.dataset.polygons import mask_polygons

MAX_IOU = 0.7  # of two labels of a class; with more they are of the same object
FIX = "Give a file that segtune.predict wrote for a folder of images"


def write_labels(path: Path, split: Split, records: Iterable[dict[str, Any]]) -> None:
    """Write predictions as a COCO dataset with polygons and scores, atomically.

    Args:
        path: of the JSON file.
        split: images, and as categories the classes.
        records: from `to_record`, those of an image in a row. One with an empty mask is left
            out, and one that covers the object of a more confident one of its class.
    """
    write_tables(
        path,
        {
            "images": map(image_record, split.images),
            "categories": map(asdict, split.categories),
            "annotations": _annotations(records),
        },
    )


def read_labels(path: Path, images: Path) -> tuple[Split, dict[int, float]]:
    """Read what `write_labels` wrote, and what people have made of it since.

    Args:
        path: of the JSON file.
        images: folder that its file names are relative to.

    Returns:
        The labels as a split, and the score of each annotation that has one, by id.

    Raises:
        DatasetError: when it is not such a file, naming the record that cannot be used.
    """
    values = read_json(path, DatasetError, FIX, what="file of labels")
    try:
        split = split_of_tables(values, name=path.stem, root=images)
        scores = {a["id"]: a["score"] for a in values["annotations"] if "score" in a}
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = f"not a COCO dataset of predictions ({shown(error)})"
        raise DatasetError(problem, file=path, fix=FIX) from None
    require_usable_records(split, path, FIX)
    for number, score in scores.items():
        try:
            require_score(score)
        except ValueError as error:
            record = f"annotation {number}"
            raise DatasetError(str(error), file=path, record=record, fix=FIX) from None
    return split, scores


def _annotations(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    number = 0
    for record in distinct_records(records):
        polygons = mask_polygons(record["segmentation"])
        if polygons:
            number += 1
            # Of what is drawn from the polygons, as every reader computes them.
            drawn = segmentation_to_rle(polygons, *record["segmentation"]["size"])
            yield {
                "id": number,
                "image_id": record["image_id"],
                "category_id": record["category_id"],
                "bbox": rle_bbox_xywh(drawn),
                "area": rle_area(drawn),
                "segmentation": polygons,
                "iscrowd": 0,
                "score": record["score"],
            }


def distinct_records(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The most confident record of each object, per image and class.

    Args:
        records: from `to_record`, those of an image and class in a row.
    """
    for _, in_image in groupby(records, key=itemgetter("image_id", "category_id")):
        kept: list[dict[str, Any]] = []
        for record in sorted(in_image, key=itemgetter("score"), reverse=True):
            masks = [other["segmentation"] for other in kept]
            overlaps = mask_utils.iou([record["segmentation"]], masks, [0] * len(masks))
            if not masks or overlaps.max() < MAX_IOU:
                kept.append(record)
        yield from kept
