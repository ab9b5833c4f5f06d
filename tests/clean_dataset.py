"""A small converted dataset in which validation finds nothing, to plant defects in."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segtune.dataset.masks import rle_area, rle_bbox_xywh, segmentation_to_rle
from tests.scenes import ellipse

COUNTS = {"train": 12, "valid": 3, "test": 3}  # images, each with an object of both classes
WIDTH, HEIGHT = 96, 72  # pixels
CATEGORIES = [
    {"id": 1, "name": "disc", "supercategory": "none", "prompt": "disc"},
    {"id": 2, "name": "plate", "supercategory": "none", "prompt": "plate"},
]
COLORS = {1: (40, 230, 40), 2: (230, 60, 40)}

Values = dict[str, Any]
Change = Callable[[Values], object]


def write_clean_dataset(folder: Path) -> Path:
    """Write images and splits; return the folder of the splits."""
    coco = folder / "coco"
    coco.mkdir(parents=True)
    for number, (split, count) in enumerate(COUNTS.items()):
        (folder / split).mkdir()
        images: list[Values] = []
        annotations: list[Values] = []
        for image_id in range(1, count + 1):
            name = f"{split}/{image_id}.png"
            images.append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
            annotations += _draw(folder / name, image_id, seed=[number, image_id])
        for place, annotation in enumerate(annotations, start=1):
            annotation["id"] = place
        values = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (coco / f"{split}.json").write_text(json.dumps(values))
    write_manifest(coco)
    return coco


def write_manifest(coco: Path) -> None:
    """Write the manifest of the images as they are now."""
    root = coco.parent
    names = [path for split in COUNTS for path in sorted((root / split).iterdir())]
    entries = [
        {
            "path": path.relative_to(root).as_posix(),
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in names
    ]
    (coco / "manifest.json").write_text(json.dumps({"root": str(root), "images": entries}))


def edit(coco: Path, name: str, change: Change) -> None:
    """Change the values of a split or of the manifest."""
    path = coco / f"{name}.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_all(coco: Path, change: Change) -> None:
    """Change the values of all splits."""
    for name in COUNTS:
        edit(coco, name, change)


def _draw(path: Path, image_id: int, seed: list[int]) -> list[Values]:
    """Two ellipses, left and right."""
    rng = np.random.default_rng(seed)
    # Of 8 x 8 random colors, so that no two images are alike.
    colors = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    image = colors.resize((WIDTH, HEIGHT))
    pen, found = ImageDraw.Draw(image), []
    for category, left in ((1, 16), (2, 62)):
        center = (left + int(rng.integers(0, 16)), int(rng.integers(20, 52)))
        outline = ellipse(center, rng.uniform(8, 14, 2))
        pen.polygon(outline[0], fill=COLORS[category])
        rle = segmentation_to_rle(outline, HEIGHT, WIDTH)
        found.append(
            {
                "image_id": image_id,
                "category_id": category,
                "bbox": rle_bbox_xywh(rle),
                "area": rle_area(rle),
                "segmentation": outline,
                "iscrowd": 0,
            }
        )
    image.save(path)
    return found
