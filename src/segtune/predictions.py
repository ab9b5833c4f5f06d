"""Reading what `segtune.predict` wrote, and refusing what cannot be scored."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtune.coco import Split, run_lengths
from segtune.errors import DatasetError

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """Answers to prompts that are not classes of the data."""

    prompts: dict[int, str]  # by category id
    detections: Records  # with `image_id`, `category_id`, `score` and `segmentation`


def read_results(path: Path, split: Split) -> Records:
    """COCO results on a split.

    Raises:
        DatasetError: when they are no such thing, or on other pictures or classes.
    """
    results = _read(path)
    try:
        if not isinstance(results, list):
            raise TypeError("no list")
        sizes = {image.id: [image.height, image.width] for image in split.images}
        known = {(i.id, c.id) for i in split.images for c in split.categories}
        strangers = sum((r["image_id"], r["category_id"]) not in known for r in results)
        for record in results if not strangers else []:
            _require_scorable(record, sizes)
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from None
    if strangers:
        raise DatasetError(
            f"{strangers} detections on pictures or classes that the {split.name} split lacks",
            file=path,
            remedy="Predict on the same split that is evaluated",
        )
    return results


def read_asked(path: Path, split: Split) -> Asked:
    """Answers to other prompts, on the pictures of a split.

    Raises:
        DatasetError: when they are no such thing, or on other pictures.
    """
    values = _read(path)
    try:
        prompts = {category["id"]: str(category["name"]) for category in values["categories"]}
        sizes = {image.id: [image.height, image.width] for image in split.images}
        for record in values["annotations"]:
            if record["category_id"] not in prompts:
                raise KeyError(record["category_id"])
            _require_scorable(record, sizes)
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from None
    return Asked(prompts, values["annotations"])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"not COCO results ({error!r})", file=path, remedy="Run segtune.predict again"
    )


def _require_scorable(record: dict[str, Any], sizes: dict[int, list[int]]) -> None:
    numbers = [record["score"], *record["bbox"]]
    if len(numbers) != 5 or not all(math.isfinite(number) for number in numbers):
        raise ValueError("score and bbox are not five finite numbers")
    rle, size = record["segmentation"], sizes[record["image_id"]]
    if rle["size"] != size:
        raise ValueError("a mask of another size than its picture")
    # pycocotools reads beyond its memory, or for ever, where the runs are damaged.
    runs = run_lengths(rle["counts"]) if isinstance(rle["counts"], str) else None
    if not runs or min(runs) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError("a mask that is no compressed RLE of its picture")
