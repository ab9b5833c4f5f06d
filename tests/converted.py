"""A small converted dataset, as `segtune.convert` writes it: discs and squares on noise."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segtune.dataset.gate import dataset_fingerprint

CATEGORIES = [
    {"id": 1, "name": "disc", "supercategory": "things", "prompt": "disc"},
    {"id": 2, "name": "square", "supercategory": "things", "prompt": "square"},
    {"id": 3, "name": "cross", "supercategory": "things", "prompt": "cross"},
]
SIDE = 64  # pixels


def write_converted(folder: Path, counts: dict[str, int] | None = None, masks: bool = True) -> Path:
    """Write the splits and the validation report; return the folder of the splits."""
    coco = folder / "coco"
    counts = counts or {"train": 8, "valid": 4, "test": 4}
    for split, count in counts.items():
        _write_split(coco, split, count, masks)
    images = [_entry(path, folder) for name in counts for path in (folder / name).iterdir()]
    (coco / "manifest.json").write_text(json.dumps({"root": str(folder), "images": images}))
    write_report(coco)
    return coco


def write_report(coco: Path, *findings: dict[str, Any]) -> None:
    """Write a validation report beside a dataset, by default one without findings."""
    report = {"fingerprint": dataset_fingerprint(coco), "findings": findings}
    (coco.parent / "report.json").write_text(json.dumps(report))


def _entry(path: Path, root: Path) -> dict[str, Any]:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return {"path": str(path.relative_to(root)), "size": len(content), "sha256": digest}


def _write_split(coco: Path, split: str, count: int, masks: bool) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        name = f"{split}/{number}.png"
        images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        category = number % 3  # 0 is an image without objects
        box = _draw(coco.parent / name, category, seed=number + 1000 * len(split))
        if category:
            annotations.append(_record(len(annotations) + 1, number, category, box, masks))
    values = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    coco.mkdir(parents=True, exist_ok=True)
    (coco / f"{split}.json").write_text(json.dumps(values))


def _draw(path: Path, category: int, seed: int) -> tuple[int, int, int, int]:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8))
    x, y = (int(value) for value in rng.integers(4, SIDE - 32, 2))
    draw = ImageDraw.Draw(image)
    if category == 1:
        draw.ellipse((x, y, x + 24, y + 24), fill=(40, 230, 40))
    elif category == 2:
        draw.rectangle((x, y, x + 24, y + 24), fill=(230, 40, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return x, y, 24, 24


def _record(
    number: int, image_id: int, category: int, box: tuple[int, int, int, int], masks: bool
) -> dict[str, Any]:
    x, y, w, h = box
    square = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": [float(value) for value in box],
        "area": float(w * h),
        "iscrowd": 0,
        "segmentation": [[float(v) for v in square[0]]] if masks else [],
    }
