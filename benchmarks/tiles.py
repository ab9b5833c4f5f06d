"""Small objects in large images: AP of the tiny model with tiles and without.

`python -m benchmarks.tiles` writes an export of 4,096 px images with objects of 12 px: the shapes
that the tiny model knows, reduced, on mottled backgrounds; the classes are their colors. It trains
on tiles and on whole images for the same number of optimizer steps, merges the whole update,
predicts the test images, and prints the mask AP of both in whole images.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage

from segtune import convert, merge, predict, tile, train, validate
from segtune.dataset.coco import read_split
from segtune.dataset.detections import read_detections
from segtune.dataset.drawn_shapes import SIDE as SCENE_SIDE
from segtune.dataset.drawn_shapes import draw_scene
from segtune.dataset.masks import mask_to_rle, rle_area, rle_bbox_xywh
from segtune.dataset.polygons import mask_polygons
from segtune.evaluation.average_precision import score_detections

COLORS = ("red", "green", "blue", "yellow")  # the first ones are the classes
MARGIN = 4  # pixels between two objects, at least
BATCH = 4
MIN_SCORE = 0.02  # of detections

Pixels = npt.NDArray[np.uint8]
Stencil = npt.NDArray[np.bool_]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the AP of each way of seeing the images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-side", type=int, default=4096, help="of the images, in pixels")
    parser.add_argument("--object-side", type=int, default=12, help="of objects, in pixels")
    parser.add_argument("--tile-side", type=int, nargs="+", default=[96], help="of tiles, pixels")
    parser.add_argument("--objects", type=int, default=30, help="in each image")
    parser.add_argument("--classes", type=int, choices=range(1, 5), default=2, help="colors")
    parser.add_argument("--test-images", type=int, default=1)
    parser.add_argument("--steps", type=int, default=90, help="of each training")
    parser.add_argument("--folder", type=Path, help="for the files; by default they are removed")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments.folder or Path(temporary), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """Make the data, train twice, and print what the models find."""
    start = time.perf_counter()
    write_export(folder / "export", arguments)
    coco = folder / "coco"
    convert.main(["--export", str(folder / "export"), "--out", str(coco)])
    validate.main(["--coco", str(coco), "--out", str(folder / "validate")])
    steps = arguments.steps
    for side in arguments.tile_side:
        tiles, settings = folder / f"tiles_{side}", json.dumps({"side": side})
        tile.main(["--coco", str(coco), "--out", str(tiles), "--settings", settings])
        steps = compare(folder, tiles, f"tiles of {side} px", steps)
    # As many steps as on tiles, of which a training has full epochs.
    compare(folder, coco, "whole images", steps)
    print(f"in all: {time.perf_counter() - start:.0f} s", flush=True)


def compare(folder: Path, data: Path, name: str, steps: int) -> int:
    """Print the AP of the base model and of one that is trained on this data; return its steps."""
    in_tiles = ["--tiles", str(data / "tiles.json")] if data.name != "coco" else []
    out = folder / f"trained_{data.name}"
    done = train_steps(folder, data, out, steps)
    adapter = str(out / "adapter")
    merge.main(["--adapter", adapter, "--out", str(out), "--settings", '{"strength": 1}'])
    report(folder, f"trained on {name}", str(out / "sam3.pt"), in_tiles)
    return done


def train_steps(folder: Path, data: Path, out: Path, steps: int) -> int:
    """Train the tiny model with its recipe for about this many optimizer steps."""
    per_epoch = -(-len(read_split(data / "train.json").images) // BATCH)
    epochs = max(1, round(steps / per_epoch))
    settings = {"epochs": epochs, "validate_every": epochs}
    files = ["--report", str(folder / "validate" / "report.json"), "--validated"]
    files += [str(folder / "coco"), "--coco", str(data), "--out", str(out)]
    start = time.perf_counter()
    train.main([*files, "--settings", json.dumps(settings)])
    print(f"{epochs * per_epoch} steps: {time.perf_counter() - start:.0f} s", flush=True)
    return epochs * per_epoch


def report(folder: Path, name: str, weights: str, in_tiles: Sequence[str]) -> None:
    """Predict on the test images and print the mask AP."""
    path, out = folder / "coco" / "test.json", folder / f"{name}.json"
    start = time.perf_counter()
    settings = ["--settings", json.dumps({"confidence_threshold": MIN_SCORE})]
    files = ["--coco", str(path), "--out", str(out), "--weights", weights]
    predict.main([*files, *settings, *in_tiles])
    seconds = time.perf_counter() - start
    split = read_split(path)
    found = read_detections(out, split)
    scores = score_detections(split, found, "mask").summary
    number = sum(one.score >= 0.5 for one in found)
    print(
        f"{name}: AP {scores.AP:.3f}, AP50 {scores.AP50:.3f}; {number} detections with a score of "
        f"at least 0.5, {len(split.objects)} objects; {seconds:.0f} s for {len(split.images)} "
        "images",
        flush=True,
    )


def write_export(folder: Path, arguments: argparse.Namespace) -> None:
    """A Roboflow export in COCO's format: 4 images for training, 1 for validation."""
    rng, colors = np.random.default_rng(0), COLORS[: arguments.classes]
    for split, count in {"train": 4, "valid": 1, "test": arguments.test_images}.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        side = arguments.image_side
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id in range(1, count + 1):
            pixels, objects = draw_image(rng, arguments)
            name = f"{image_id}.jpg"
            PilImage.fromarray(pixels).save(folder / split / name, quality=95)
            images.append({"id": image_id, "file_name": name, "width": side, "height": side})
            for category_id, (left, top), stencil in objects:
                record = {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0}
                annotations.append({**record, **placed_object(category_id, left, top, stencil)})
        categories = [{"id": n, "name": name} for n, name in enumerate(colors, start=1)]
        values = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(values))


def placed_object(category_id: int, left: int, top: int, stencil: Stencil) -> dict[str, Any]:
    """The annotation of a shape whose stencil begins at this pixel."""
    rle = mask_to_rle(stencil)
    x, y, w, h = rle_bbox_xywh(rle)
    outlines = [
        [value + (top if place % 2 else left) for place, value in enumerate(outline)]
        for outline in mask_polygons(rle)
    ]
    box = [left + x, top + y, w, h]
    return {
        "category_id": category_id,
        "segmentation": outlines,
        "bbox": box,
        "area": rle_area(rle),
    }


def draw_image(
    rng: np.random.Generator, arguments: argparse.Namespace
) -> tuple[Pixels, list[tuple[int, tuple[int, int], Stencil]]]:
    """An image, and of each object the class, the place of its stencil, and that."""
    side = arguments.image_side
    coarse = rng.integers(60, 190, (side // 64, side // 64, 3), dtype=np.uint8)
    ground = PilImage.fromarray(coarse).resize((side, side), PilImage.Resampling.BICUBIC)
    pixels = np.array(ground)
    colors = COLORS[: arguments.classes]
    taken = np.zeros((side, side), bool)
    objects: list[tuple[int, tuple[int, int], Stencil]] = []
    while len(objects) < arguments.objects:
        category_id, skin, stencil = small_shape(rng, arguments.object_side, colors)
        height, width = stencil.shape
        top, left = (int(rng.integers(MARGIN, side - MARGIN - n)) for n in (height, width))
        around = np.s_[top - MARGIN : top + height + MARGIN, left - MARGIN : left + width + MARGIN]
        if taken[around].any():
            continue
        taken[around] = True
        place = np.s_[top : top + height, left : left + width]
        pixels[place][stencil] = skin[stencil]
        objects.append((category_id, (left, top), stencil))
    return pixels, objects


def small_shape(
    rng: np.random.Generator, side: int, colors: Sequence[str]
) -> tuple[int, Pixels, Stencil]:
    """A shape, reduced so that its longer side has `side` pixels: class, pixels and mask."""
    while True:
        scene = draw_scene(rng)
        for shape in scene.shapes:
            if shape.color in colors:
                rows, columns = (np.flatnonzero(shape.mask.any(axis)) for axis in (1, 0))
                crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                skin, stencil = reduced(scene.pixels, shape.mask, crop, side)
                return colors.index(shape.color) + 1, skin, stencil


def reduced(pixels: Pixels, mask: Stencil, crop: Any, side: int) -> tuple[Pixels, Stencil]:
    """A part of a scene of 96 px with its mask, at another scale."""
    height, width = mask[crop].shape
    scale = side / max(height, width)
    assert max(height, width) <= SCENE_SIDE
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    small = PilImage.fromarray(pixels[crop]).resize(size, PilImage.Resampling.BOX)
    stencil = PilImage.fromarray(mask[crop].astype(np.uint8) * 255)
    return np.asarray(small), np.asarray(stencil.resize(size, PilImage.Resampling.BOX)) >= 128


if __name__ == "__main__":
    main()
