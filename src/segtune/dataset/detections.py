"""Predictions: one type from the model to the report, and COCO's file format of results."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from segtune.core.atomic import write_tables
from segtune.core.errors import DatasetError, shown
from segtune.core.foreign import read_json
from segtune.dataset.coco import Split, image_record
from segtune.dataset.masks import MAX_COORDINATE, BoxXywh, Rle, rle_area, run_lengths

FIX = "Run segtune.predict again"
T = TypeVar("T")


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
    records = _read(path)
    if not isinstance(records, list):
        raise _unreadable(path, "not a list")
    pairs = _each(path, records, _pair)
    known = {(i.id, c.id) for i in split.images for c in split.categories}
    unknown = sum(pair not in known for pair in pairs)
    if unknown:
        raise DatasetError(
            f"{unknown} of {len(records)} detections have an image or category that the "
            f"{split.name} split lacks",
            file=path,
            fix="Evaluate the split that was predicted on",
        )
    return checked_detections(path, records, split)


def read_prompted_detections(path: Path, split: Split) -> PromptedDetections:
    """Read predictions for other prompts in the images of a split.

    Raises:
        DatasetError: when the file is not a COCO dataset with scores, or has other images.
    """
    values = _read(path)
    tables = values if isinstance(values, dict) else {}
    categories, records = tables.get("categories"), tables.get("annotations")
    if not isinstance(categories, list) or not isinstance(records, list):
        raise _unreadable(path, "without lists of categories and annotations")
    prompts = dict(_each(path, categories, _prompt, name="category"))
    for number, (_, category_id) in enumerate(_each(path, records, _pair), start=1):
        if category_id not in prompts:
            problem = f"category {shown(category_id)} is not known"
            raise _unreadable(path, problem, record=f"detection {number}")
    return PromptedDetections(prompts, checked_detections(path, records, split))


def checked_detections(path: Path, records: Sequence[Any], split: Split) -> Detections:
    """The detections of a split's images in COCO's results format, from a foreign file.

    Args:
        path: of the file, for messages.
        records: whatever the file has.
        split: the images.

    Raises:
        DatasetError: naming a record that cannot be scored.
    """
    sizes = {image.id: (image.height, image.width) for image in split.images}
    return Detections(_each(path, records, lambda record: _checked(record, sizes)))


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
    return read_json(path, DatasetError, FIX, what="COCO results")


def _unreadable(path: Path, problem: str, record: str | None = None) -> DatasetError:
    return DatasetError(f"not COCO results ({problem})", file=path, record=record, fix=FIX)


def _each(
    path: Path, records: Sequence[Any], read: Callable[[Any], T], *, name: str = "detection"
) -> list[T]:
    """Read every record; an error names its number."""
    results = []
    for number, record in enumerate(records, start=1):
        try:
            results.append(read(record))
        except ValueError as error:
            raise _unreadable(path, str(error), record=f"{name} {number}") from None
    return results


def _pair(record: Any) -> tuple[int, int]:
    return _integer(record, "image_id"), _integer(record, "category_id")


def _prompt(record: Any) -> tuple[int, str]:
    number, name = _integer(record, "id"), record.get("name")
    if not isinstance(name, str) or any(0xD800 <= ord(character) < 0xE000 for character in name):
        raise ValueError(f"the name {shown(name)} is not text")
    return number, name


def _integer(record: Any, key: str) -> int:
    value = record.get(key) if isinstance(record, dict) else None
    if type(value) is not int:  # True is one, too, for isinstance
        raise ValueError(f"{key} is {shown(value)}, not an integer")
    return value


def _checked(record: dict[str, Any], sizes: Mapping[int, tuple[int, int]]) -> Detection:
    image_id, _ = _pair(record)
    if image_id not in sizes:
        raise ValueError(f"image {shown(image_id)} is not known")
    score: Any = record.get("score")
    box: Any = record.get("bbox")
    rle: Any = record.get("segmentation")
    require_score(score)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_coordinate, box)):
        raise ValueError(f"bbox {shown(box)} is not x, y, width and height in pixels")
    if min(box[2:]) < 0:
        raise ValueError(f"bbox {shown(box)} has a negative size")
    size = sizes[image_id]
    run_lengths(rle, *size)
    if not isinstance(rle["counts"], str):
        raise ValueError("a mask is not a compressed RLE")
    return from_record({**record, "segmentation": {"size": [*size], "counts": rle["counts"]}})


def require_score(score: Any) -> None:
    """Check a confidence from a file.

    Raises:
        ValueError: when it is not a number from 0 to 1.
    """
    # Written so that NaN fails too.
    if type(score) not in (int, float) or not 0 <= score <= 1:
        raise ValueError(f"the score {shown(score)} is not from 0 to 1")


def _is_coordinate(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_COORDINATE
