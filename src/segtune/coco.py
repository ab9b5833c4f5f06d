"""The canonical dataset: one COCO file per split, and masks as pycocotools reads them.

`<folder>/{train,valid,test}.json` share one category table; `manifest.json` beside them
names the folder of the pictures.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_utils

from segtune.errors import DatasetError
from segtune.template import fill

BoxXywh = tuple[float, float, float, float]
Segmentation = list[Any] | dict[str, Any]  # polygons, each x0, y0, x1, y1, …; or RLE


@dataclass(frozen=True)
class Category:
    """A class and the text that SAM 3 is prompted with for it, perhaps with `{fields}`."""

    id: int
    name: str
    prompt: str


@dataclass(frozen=True)
class Image:
    """A picture; `file_name` is relative to the manifest's root."""

    id: int
    file_name: str
    width: int  # pixels
    height: int  # pixels
    fields: Mapping[str, str] = field(default_factory=dict)  # for the prompts


@dataclass(frozen=True)
class Annotation:
    """One object; `segmentation` is None where only a box is known."""

    id: int
    image_id: int
    category_id: int
    bbox_xywh: BoxXywh  # pixels
    area: float  # pixels
    segmentation: Segmentation | None
    iscrowd: int


@dataclass(frozen=True)
class Split:
    """One split of a converted dataset."""

    name: str
    root: Path  # folder of the pictures
    categories: tuple[Category, ...]
    images: tuple[Image, ...]
    annotations: dict[int, tuple[Annotation, ...]]  # by image id; every image is a key

    def image_path(self, image: Image) -> Path:
        """Where a picture lies."""
        return self.root / image.file_name

    def prompts(self, image: Image) -> dict[int, str]:
        """Category id -> the text that a picture is prompted with."""
        return {category.id: fill(category.prompt, image.fields) for category in self.categories}


def read_split(path: Path) -> Split:
    """Read `<folder>/<split>.json` as `segtune.convert` wrote it.

    Raises:
        DatasetError: when it or the manifest beside it is missing or of another shape.
    """
    values, manifest = read_json(path), read_json(path.parent / "manifest.json")
    try:
        images = tuple(
            Image(v["id"], v["file_name"], v["width"], v["height"], v.get("fields", {}))
            for v in values["images"]
        )
        annotations: dict[int, list[Annotation]] = {image.id: [] for image in images}
        for record in values["annotations"]:
            annotations[record["image_id"]].append(_annotation(record))
        return Split(
            name=path.stem,
            root=Path(manifest["root"]),
            categories=tuple(
                Category(v["id"], v["name"], v["prompt"]) for v in values["categories"]
            ),
            images=images,
            annotations={key: tuple(found) for key, found in annotations.items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"not a converted dataset ({error!r})", file=path, remedy="Run segtune.convert again"
        ) from None


def rasterised(split: Split) -> Split:
    """The split with every mask as compressed RLE, which is compared many times faster."""
    annotations = {
        image.id: tuple(
            a
            if not a.segmentation
            else replace(
                a, segmentation=segmentation_to_rle(a.segmentation, image.height, image.width)
            )
            for a in split.annotations[image.id]
        )
        for image in split.images
    }
    return replace(split, annotations=annotations)


def has_masks(split: Split) -> bool:
    """Whether any object of a split has a mask."""
    return any(a.segmentation for anns in split.annotations.values() for a in anns)


def read_json(path: Path) -> Any:
    """Read a file of the converted dataset.

    Raises:
        DatasetError: when it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"cannot be read ({error})", file=path, remedy="Run segtune.convert first"
        ) from None


def segmentation_to_rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """Polygons or RLE of either kind as compressed RLE, its counts as text."""
    if isinstance(segmentation, list):
        rle = mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = mask_utils.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return {"size": [height, width], "counts": _text(rle["counts"])}


def segmentation_to_mask(
    segmentation: Segmentation, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Polygons or RLE as a mask (height, width) of 0 and 1, rasterised by pycocotools."""
    mask: npt.NDArray[np.uint8] = mask_utils.decode(
        segmentation_to_rle(segmentation, height, width)
    )
    return mask


def mask_to_rle(mask: npt.NDArray[Any]) -> dict[str, Any]:
    """A mask (height, width) of 0 and 1 or booleans as compressed RLE, its counts as text."""
    rle = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": _text(rle["counts"])}


def rle_area(rle: dict[str, Any]) -> float:
    """Pixels of a compressed RLE."""
    return float(mask_utils.area(rle))


def rle_bbox_xywh(rle: dict[str, Any]) -> BoxXywh:
    """The tight box around a compressed RLE, in pixels."""
    x, y, w, h = (float(value) for value in mask_utils.toBbox(rle))
    return x, y, w, h


def _annotation(record: dict[str, Any]) -> Annotation:
    x, y, w, h = record["bbox"]
    return Annotation(
        id=record["id"],
        image_id=record["image_id"],
        category_id=record["category_id"],
        bbox_xywh=(x, y, w, h),
        area=record["area"],
        segmentation=record["segmentation"] or None,
        iscrowd=record["iscrowd"],
    )


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def run_lengths(counts: str) -> list[int] | None:
    """The run lengths in a compressed RLE, or None where it is damaged.

    COCO's text form: six bits a character from "0" on, the low five of them data, the
    sixth set where more follow; from the fourth run on the difference to the run two before.
    pycocotools does not check it and may read or write beyond its memory.
    """
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value = shift = 0
        more = True
        while more:
            if position == len(counts):
                return None
            bits = ord(counts[position]) - 48
            if not 0 <= bits < 64:
                return None
            value |= (bits & 31) << shift
            shift += 5
            position += 1
            more = bool(bits & 32)
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
