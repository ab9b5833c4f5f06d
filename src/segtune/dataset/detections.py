"""Predictions: one type from the model to the report, and COCO's file format of results."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtune.core.atomic import write_tables
from segtune.core.errors import DatasetError
from segtune.dataset.coco import Split, image_record
from segtune.dataset.masks import BoxXywh, Rle, decode_rle_counts, rle_area


@dataclass(frozen=True, slots=True)
class Detection:
    """A predicted object, in pixels of its image."""

    image_id: int
    category_id: int
    score: float  # confidence, 0..1
    bbox_xywh: BoxXywh
    rle: Rle  # the mask, compressed, of the image's size


class Detections:
    """Detections in a given order, indexed by image and category."""

    def __init__(self, detections: Iterable[Detection] = ()) -> None:
        self._all = tuple(detections)
        self._by_image: dict[int, list[Detection]] = {}
        self._by_pair: dict[tuple[int, int], list[Detection]] = {}
        for found in self._all:
            self._by_image.setdefault(found.image_id, []).append(found)
            self._by_pair.setdefault((found.image_id, found.category_id), []).append(found)

    def __iter__(self) -> Iterator[Detection]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def in_image(self, image_id: int) -> Sequence[Detection]:
        """The detections in an image."""
        return self._by_image.get(image_id, [])

    def of(self, image_id: int, category_id: int) -> Sequence[Detection]:
        """The detections of one category in an image."""
        return self._by_pair.get((image_id, category_id), [])


@dataclass(frozen=True)
class PromptedDetections:
    """Detections of prompts that are not categories of the dataset."""

    prompts: dict[int, str]  # by category id
    detections: Detections


def to_record(found: Detection) -> dict[str, Any]:
    """A detection in COCO's results format."""
    return {
        "image_id": found.image_id,
        "category_id": found.category_id,
        "bbox": list(found.bbox_xywh),
        "score": found.score,
        "segmentation": found.rle,
    }


def from_record(record: dict[str, Any]) -> Detection:
    """The detection of a record that `to_record` made; nothing is checked."""
    x, y, w, h = record["bbox"]
    return Detection(
        image_id=record["image_id"],
        category_id=record["category_id"],
        score=record["score"],
        bbox_xywh=(x, y, w, h),
        rle=record["segmentation"],
    )


def read_detections(path: Path, split: Split) -> Detections:
    """Read COCO results for a split.

    Raises:
        DatasetError: when the file is not COCO results, or has other images or categories.
    """
    results = _read(path)
    known = {(i.id, c.id) for i in split.images for c in split.categories}
    try:
        if not isinstance(results, list):
            raise TypeError("not a list")
        unknown = sum((r["image_id"], r["category_id"]) not in known for r in results)
        detections = [] if unknown else _checked(results, split)
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from None
    if unknown:
        raise DatasetError(
            f"{unknown} of {len(results)} detections have an image or category that the "
            f"{split.name} split lacks",
            file=path,
            fix="Evaluate the split that was predicted on",
        )
    return Detections(detections)


def read_prompted_detections(path: Path, split: Split) -> PromptedDetections:
    """Read predictions for other prompts in the images of a split.

    Raises:
        DatasetError: when the file is not a COCO dataset with scores, or has other images.
    """
    values = _read(path)
    try:
        prompts = {category["id"]: str(category["name"]) for category in values["categories"]}
        for record in values["annotations"]:
            if record["category_id"] not in prompts:
                raise KeyError(record["category_id"])
        return PromptedDetections(prompts, Detections(_checked(values["annotations"], split)))
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from None


def write_prompted_detections(path: Path, split: Split, records: Iterable[dict[str, Any]]) -> None:
    """Write predictions for a split's categories as a COCO dataset with scores, atomically.

    Args:
        path: of the JSON file.
        split: images, and as categories the prompts.
        records: from `to_record`, consumed one at a time.
    """
    annotations = (
        {"id": number, "iscrowd": 0, "area": rle_area(record["segmentation"]), **record}
        for number, record in enumerate(records, start=1)
    )
    write_tables(
        path,
        {
            "images": map(image_record, split.images),
            "categories": ({"id": c.id, "name": c.name} for c in split.categories),
            "annotations": annotations,
        },
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DatasetError:
    return DatasetError(f"not COCO results ({error!r})", file=path, fix="Run segtune.predict again")


def _checked(records: Iterable[dict[str, Any]], split: Split) -> list[Detection]:
    sizes = {image.id: [image.height, image.width] for image in split.images}
    detections = []
    for record in records:
        _require_scorable(record, sizes[record["image_id"]])
        detections.append(from_record(record))
    return detections


def _require_scorable(record: dict[str, Any], size: list[int]) -> None:
    numbers = [record["score"], *record["bbox"]]
    if len(numbers) != 5 or not all(math.isfinite(number) for number in numbers):
        raise ValueError("score and bbox are not five finite numbers")
    rle = record["segmentation"]
    if rle["size"] != size:
        raise ValueError("the size of a mask is not that of its image")
    # With damaged runs, pycocotools reads out of bounds or never returns.
    runs = decode_rle_counts(rle["counts"]) if isinstance(rle["counts"], str) else None
    if not runs or min(runs) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError("a mask is not a compressed RLE of its image")
