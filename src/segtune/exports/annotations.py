"""Making exact COCO objects of the records of an export, and logging every repair."""

import json
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from segtune.core.errors import ExportError
from segtune.dataset.masks import (
    BoxXywh,
    Segmentation,
    decode_rle_counts,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_rle,
)

MAX_COORDINATE = 1e6  # pixels; pycocotools crashes far beyond the image
MAX_BOX_OFFSET = 1.0  # pixels between a recorded box and its mask's
MIN_POLYGON_NUMBERS = 6  # numbers: three points
KEPT_EXAMPLES = 5


@dataclass
class Repairs:
    """What was changed on the way in: per rule a count and the first examples."""

    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    def log(self, rule: str, file: Path, record: str, original: Any) -> None:
        """Count a repair, and remember where it was and what stood there."""
        self.counts[rule] += 1
        if len(self.examples[rule]) < KEPT_EXAMPLES:
            # Polygons are arrays here, and the log is JSON.
            plain = json.loads(json.dumps(original, default=list))
            example = {"file": str(file), "record": record, "original": plain}
            self.examples[rule].append(example)

    def as_json(self) -> list[dict[str, Any]]:
        """The log, rule after rule."""
        return [
            {"rule": rule, "count": count, "examples": self.examples[rule]}
            for rule, count in sorted(self.counts.items())
        ]


@dataclass(frozen=True)
class Record:
    """An annotation of an export, with what is needed to speak of it and to check it."""

    values: dict[str, Any]
    annotations: Path  # of its split
    width: int  # pixels, of its image
    height: int  # pixels
    repairs: Repairs

    @property
    def file(self) -> Path:
        return self._place[0]

    @property
    def name(self) -> str:
        return self._place[1]

    @property
    def _place(self) -> tuple[Path, str]:
        here = (self.annotations, f"annotation {self.values.get('id')}")
        return self.values.get("place", here)

    def log(self, rule: str, original: Any) -> None:
        self.repairs.log(rule, self.file, self.name, original)

    def refuse(self, problem: str, fix: str | None = None) -> ExportError:
        return ExportError(problem, file=self.file, record=self.name, fix=fix)


def normalize_annotation(record: Record) -> dict[str, Any] | None:
    """Box, area and segmentation of one object, computed from its mask where it has one.

    Returns:
        `bbox`, `area`, `segmentation`, `iscrowd` and, without a mask, `box_only`; None
        where nothing of the object lies in the image.

    Raises:
        ExportError: when a number, a box or a mask makes no sense.
    """
    box_xywh = _box(record)
    segmentation = _segmentation(record)
    iscrowd = record.values.get("iscrowd") or 0
    if iscrowd not in (0, 1):
        raise record.refuse(f"iscrowd is {iscrowd!r} instead of 0 or 1")
    if segmentation is not None:
        rle = segmentation_to_rle(segmentation, record.height, record.width)
        area = rle_area(rle)
        if area:
            exact = rle_bbox_xywh(rle)
            if max(abs(a - b) for a, b in zip(exact, box_xywh, strict=True)) > MAX_BOX_OFFSET:
                record.log("box recomputed from the mask", list(box_xywh))
            return {
                "bbox": list(exact),
                "area": area,
                "segmentation": segmentation,
                "iscrowd": int(iscrowd),
            }
        record.log("mask without a pixel dropped, the box kept", record.values["segmentation"])
    clipped = _clip(record, box_xywh)
    if clipped is None:
        return None
    area = clipped[2] * clipped[3]
    return {
        "bbox": list(clipped),
        "area": area,
        "segmentation": [],
        "iscrowd": int(iscrowd),
        "box_only": True,
    }


def number(value: Any, refuse: Any, log: Any) -> float:
    """A finite number of a sensible size, also where it was written as text."""
    if isinstance(value, str):
        log("number written as text", value)
        try:
            value = float(value)
        except ValueError:
            raise refuse(f"{value!r} is no number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse(f"{value!r} is no number")
    # Written so that NaN fails too, and before float() meets an endless integer.
    if not abs(value) <= MAX_COORDINATE:
        raise refuse(f"{value} is no coordinate", "Correct it, or remove the annotation")
    return float(value)


def _numbers(values: Any, record: Record) -> Sequence[float]:
    # Written so that NaN goes the slow way too, where it is refused by name.
    if isinstance(values, array) and np.abs(values).max(initial=0) <= MAX_COORDINATE:
        return values
    if not isinstance(values, list | array):
        raise record.refuse(f"{values!r} is no list of numbers")
    return [number(value, record.refuse, record.log) for value in values]


def _box(record: Record) -> BoxXywh:
    values = _numbers(record.values.get("bbox"), record)
    if len(values) != 4:
        raise record.refuse(f"bbox has {len(values)} numbers instead of 4")
    return values[0], values[1], values[2], values[3]


def _clip(record: Record, box_xywh: BoxXywh) -> BoxXywh | None:
    x, y, w, h = box_xywh
    if w <= 0 or h <= 0:
        record.log("box of no size dropped", list(box_xywh))
        return None
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, float(record.width)), min(y + h, float(record.height))
    if right <= left or bottom <= top:
        record.log("box outside the image dropped", list(box_xywh))
        return None
    clipped = (left, top, right - left, bottom - top)
    if max(abs(a - b) for a, b in zip(clipped, box_xywh, strict=True)) > 1e-6:
        record.log("box clipped to the image", list(box_xywh))
        return clipped
    return box_xywh


def _segmentation(record: Record) -> Segmentation | None:
    value = record.values.get("segmentation")
    if not value:
        return None
    if isinstance(value, dict):
        return _rle(value, record)
    if not isinstance(value, list):
        raise record.refuse("segmentation is neither polygons nor RLE")
    if not isinstance(value[0], list | array):
        record.log("flat polygon wrapped", value)
        value = [value]
    return _polygons(value, record)


def _polygons(parts: list[Any], record: Record) -> list[Sequence[float]] | None:
    kept = []
    for part in (_numbers(part, record) for part in parts):
        if len(part) < MIN_POLYGON_NUMBERS or len(part) % 2:
            rule = "polygon of fewer than three points or odd length dropped"
            record.log(rule, list(part))
            continue
        kept.append(part)
        points = np.asarray(memoryview(part) if isinstance(part, array) else part)
        if not shapely.linearrings(points.reshape(-1, 2)).is_simple:
            record.log("polygon that crosses itself filled as pycocotools does", list(part))
    if not kept:
        record.log("object without a usable polygon kept as a box", [list(p) for p in parts])
    return kept or None


def _rle(value: dict[str, Any], record: Record) -> dict[str, Any]:
    size = [record.height, record.width]
    if value.get("size") != size:
        raise record.refuse(
            f"RLE of size {value.get('size')}, the image's is {size} (height, width)",
            "Export the dataset again",
        )
    counts = value.get("counts")
    runs = decode_rle_counts(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or any(not isinstance(run, int) or run < 0 for run in runs):
        raise record.refuse("RLE whose counts are no run lengths")
    if sum(runs) != record.height * record.width:
        raise record.refuse(
            f"RLE of {sum(runs)} pixels, the image has {record.height * record.width}"
        )
    if isinstance(counts, list):
        record.log("uncompressed RLE compressed", {"runs": len(runs)})
    return segmentation_to_rle({"size": size, "counts": counts}, record.height, record.width)
