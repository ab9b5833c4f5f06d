"""A writer of small COCO exports, whose records can be corrupted one at a time."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30  # pixels
Values = dict[str, list[dict[str, Any]]]
SQUARE = [5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0]
TEMPLATE = "{name}, {view} view"  # of prompts; `view` is a column of `with_table`


def coco_values(split: str, images: int = 2) -> Values:
    """Images with one polygon each, a placeholder category and two real classes."""
    return {
        "categories": [
            {"id": 0, "name": "project", "supercategory": "none"},
            {"id": 1, "name": "big_dog", "supercategory": "project"},
            {"id": 2, "name": "cat", "supercategory": "project"},
        ],
        "images": [
            {
                "id": index,
                "file_name": f"{split}{index}_jpg.rf.{index:032x}.jpg",
                "width": WIDTH,
                "height": HEIGHT,
            }
            for index in range(images)
        ],
        "annotations": [
            {
                "id": index,
                "image_id": index,
                "category_id": 1 + index % 2,
                "bbox": [5, 5, 10, 10],
                "area": 100,
                "segmentation": [list(SQUARE)],
                "iscrowd": 0,
            }
            for index in range(images)
        ],
    }


def write_export(
    folder: Path,
    change: Callable[[Values], object] = lambda values: None,
    splits: tuple[str, ...] = ("train", "valid", "test"),
) -> Path:
    """Write an export whose training split was changed by `change`."""
    for number, split in enumerate(splits):
        values = coco_values(split)
        if split == "train":
            change(values)
        (folder / split).mkdir(parents=True)
        for image in coco_values(split)["images"]:
            rng = np.random.default_rng([number, image["id"]])
            pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / image["file_name"])
        # Python's JSON allows NaN, and so do some exporters.
        (folder / split / "_annotations.coco.json").write_text(json.dumps(values))
    return folder


def zip_export(folder: Path, archive: Path, prefix: str = "") -> Path:
    """Pack a folder; `prefix` is prepended to each member's name."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.rglob("*")):
            opened.write(path, prefix + path.relative_to(folder).as_posix())
    return archive


def first(values: Values) -> dict[str, Any]:
    """The first annotation."""
    return values["annotations"][0]


def set_first(**changes: Any) -> Callable[[Values], object]:
    """A change of the first annotation."""
    return lambda values: first(values).update(changes)


def set_all(**changes: Any) -> Callable[[Values], object]:
    """A change of all annotations."""
    return lambda values: [record.update(changes) for record in values["annotations"]]


def set_categories(*categories: tuple[int, str, str]) -> Callable[[Values], object]:
    """Other categories: id, name and supercategory of each."""

    def change(values: Values) -> None:
        values["categories"] = [
            {"id": i, "name": name, "supercategory": above} for i, name, above in categories
        ]

    return change


def with_table(tmp_path: Path, names: list[str], extra: str = "") -> Path:
    """An export, and beside it a CSV that lists its six images by `names`."""
    export = write_export(tmp_path / "export")
    lines = [f"{name},from {number}" for number, name in enumerate(names)]
    (tmp_path / "views.csv").write_text("file_name,view\n" + "\n".join(lines) + "\n" + extra)
    return export


def originals() -> list[str]:
    """The names that the six images had before they were uploaded."""
    return [f"{split}{n}.jpg" for split in ("train", "valid", "test") for n in (0, 1)]
