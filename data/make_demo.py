"""Draw the demo export: images of an imaginary tide pool, in Roboflow's COCO layout.

`python data/make_demo.py` writes `data/demo/` again, byte by byte the same. Urchins, limpets,
kelp and a few cuttlebones lie on wet sand, among pebbles and cracks that look like them and
are not labeled. The layout has the quirks of a real export: a placeholder category, ids
from 0, areas of boxes, a few objects in two parts and a few box-only annotations.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

SIDE = 192  # pixels
SCALE = 3  # drawn larger, then downscaled for smooth edges
JPEG_QUALITY = 88
SPLITS = {"train": 200, "valid": 100, "test": 60}
CLASSES = ("urchin", "limpet", "kelp", "cuttlebone")
RARE_EVERY = 9  # images between two cuttlebones
EMPTY_EVERY = 12  # images between two without objects
BOX_ONLY = {("train", 5), ("train", 29)}  # images whose first object has no mask
SPLIT_EVERY = 6  # images between two whose kelp lies under driftwood
DATE = "2026-01-01T00:00:00+00:00"
LICENSE = {"id": 1, "url": "https://creativecommons.org/publicdomain/zero/1.0/", "name": "CC0"}
README_DATASET = """tidepool, version 1

360 synthetic images to try segtune on, drawn by data/make_demo.py.
Free for any use (CC0).
"""
README_EXPORT = """tidepool in the layout of a Roboflow COCO Segmentation export

train, valid and test each contain images and one _annotations.coco.json.
The images were neither preprocessed nor augmented.
"""

Points = npt.NDArray[np.float64]  # (n, 2) x, y in pixels
Random = np.random.Generator
Color = tuple[int, int, int]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    for number, (split, count) in enumerate(SPLITS.items()):
        write_split(arguments.out / split, split, count, [arguments.seed, number])
    (arguments.out / "README.dataset.txt").write_text(README_DATASET, "utf-8")
    (arguments.out / "README.roboflow.txt").write_text(README_EXPORT, "utf-8")


def write_split(folder: Path, split: str, count: int, seed: list[int]) -> None:
    """Write the images of a split and its JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        rng = np.random.default_rng([*seed, index])
        image, objects = draw_image(rng, index)
        stem = f"{split}_{index:03d}"
        name = f"{stem}_jpg.rf.{hashlib.md5(stem.encode()).hexdigest()}.jpg"
        image.save(folder / name, quality=JPEG_QUALITY)
        images.append(image_record(index, name, f"{stem}.jpg"))
        for position, (label, parts) in enumerate(objects):
            record = object_record(len(annotations), index, label, parts)
            if position == 0 and (split, index) in BOX_ONLY:
                record["segmentation"] = []
            annotations.append(record)
    values = {
        "info": {"year": "2026", "version": "1", "description": "tidepool, drawn for segtune"},
        "licenses": [LICENSE],
        "categories": categories(),
        "images": images,
        "annotations": annotations,
    }
    (folder / "_annotations.coco.json").write_text(json.dumps(values), "utf-8")


def categories() -> list[dict[str, Any]]:
    """Roboflow's placeholder, which is named after the project, and the classes."""
    placeholder = {"id": 0, "name": "tidepool", "supercategory": "none"}
    return [
        placeholder,
        *(
            {"id": number, "name": name, "supercategory": "tidepool"}
            for number, name in enumerate(CLASSES, start=1)
        ),
    ]


def image_record(index: int, name: str, original: str) -> dict[str, Any]:
    """A record of the table of images."""
    return {
        "id": index,
        "license": 1,
        "file_name": name,
        "height": SIDE,
        "width": SIDE,
        "date_captured": DATE,
        "extra": {"name": original},
    }


def object_record(number: int, image: int, label: str, parts: list[Points]) -> dict[str, Any]:
    """A record of the table of annotations; its area is that of the box, as in Roboflow's."""
    polygons = [np.round(part, 2) for part in parts]
    corners = np.concatenate(polygons)
    low, size = corners.min(0), np.ptp(corners, axis=0)
    return {
        "id": number,
        "image_id": image,
        "category_id": CLASSES.index(label) + 1,
        "bbox": [round(float(value), 2) for value in (*low, *size)],
        "area": round(float(size[0] * size[1]), 3),
        "segmentation": [[float(value) for value in part.ravel()] for part in polygons],
        "iscrowd": 0,
    }


def draw_image(rng: Random, index: int) -> tuple[Image.Image, list[tuple[str, list[Points]]]]:
    """An image and its objects: (class, polygons)."""
    canvas = background(rng)
    draw = ImageDraw.Draw(canvas)
    places = scatter(rng)
    for _ in range(rng.integers(1, 4)):
        distractor = draw_pebble if rng.random() < 0.6 else draw_crack
        distractor(draw, rng, next_place(places))
    objects = []
    for label in chosen_classes(rng, index):
        place = next_place(places)
        if label == "kelp":
            objects.append((label, draw_kelp(draw, rng, place, index % SPLIT_EVERY == 1)))
        else:
            painters: dict[str, Callable[[ImageDraw.ImageDraw, Random, Points], Points]] = {
                "urchin": draw_urchin,
                "limpet": draw_limpet,
                "cuttlebone": draw_cuttlebone,
            }
            objects.append((label, [painters[label](draw, rng, place)]))
    reduced = canvas.resize((SIDE, SIDE), Image.Resampling.BOX)
    return reduced.filter(ImageFilter.GaussianBlur(0.4)), objects


def chosen_classes(rng: Random, index: int) -> list[str]:
    """Up to four objects of one or two common classes, and now and then one of the rare class."""
    if index % EMPTY_EVERY == 7:
        return []
    common = rng.permutation(3)[: rng.integers(1, 3)]
    chosen = [CLASSES[common[i]] for i in rng.integers(0, len(common), rng.integers(1, 4))]
    if index % SPLIT_EVERY == 1 and "kelp" not in chosen:
        chosen.append("kelp")
    return [*chosen, *(["cuttlebone"] if index % RARE_EVERY == 4 else [])]


def scatter(rng: Random) -> list[Points]:
    """Centers on a jittered 3 x 3 grid, far enough apart that objects hardly touch."""
    cell = SIDE / 3
    grid = np.array([(x, y) for x in range(3) for y in range(3)]) * cell + cell / 2
    return [grid[i] + rng.uniform(-6, 6, 2) for i in rng.permutation(len(grid))]


def next_place(places: list[Points]) -> Points:
    """The next free center, moved inward so that every object fits."""
    return np.clip(places.pop(), 35, SIDE - 35)


def background(rng: Random) -> Image.Image:
    """Wet sand: noise of several grain sizes under slanting light."""
    height = np.zeros((SIDE, SIDE))
    for cells, weight in ((4, 22.0), (12, 14.0), (48, 9.0), (SIDE, 7.0)):
        noise = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        grown = noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        height += weight * (np.asarray(grown) - 0.5)
    across, down = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    turn = rng.uniform(0, 2 * np.pi)
    height += 14 * (np.cos(turn) * across + np.sin(turn) * down)
    tint = np.array([150, 136, 112]) + rng.uniform(-14, 14, 3)
    pixels = np.clip(height[..., None] + tint, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((SIDE * SCALE,) * 2, Image.Resampling.BICUBIC)


def ring(center: Points, radii: Points, turn: float = 0.0, squash: float = 1.0) -> Points:
    """A closed outline, given by its distances from the center at equal steps of angle."""
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    x, y = radii * np.cos(angles), radii * np.sin(angles) * squash
    return center + np.stack(
        [x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1
    )


def fill(draw: ImageDraw.ImageDraw, points: Points, color: Color) -> None:
    """Draw a filled polygon, given in pixels of the final image."""
    draw.polygon([tuple(p) for p in points * SCALE], fill=color)


def line(draw: ImageDraw.ImageDraw, points: Points, color: Color, width: float) -> None:
    """Draw a line, given in pixels of the final image."""
    draw.line([tuple(p) for p in points * SCALE], color, round(width * SCALE), joint="curve")


def shade(rng: Random, color: Color, spread: float = 14) -> Color:
    """A color a little lighter or darker."""
    red, green, blue = np.clip(np.array(color) + rng.uniform(-spread, spread), 0, 255)
    return int(red), int(green), int(blue)


def draw_urchin(draw: ImageDraw.ImageDraw, rng: Random, center: Points) -> Points:
    """A dark ball of spines, which the outline follows."""
    spines, radius = int(rng.integers(16, 23)), rng.uniform(22, 30)
    radii = np.empty(2 * spines)
    radii[0::2] = radius * rng.uniform(0.9, 1.1, spines)
    radii[1::2] = radius * 0.62
    outline = ring(center, radii, rng.uniform(0, 6))
    dark = shade(rng, (58, 38, 74))
    fill(draw, outline, dark)
    for tip in outline[0::2]:
        line(draw, np.stack([center, tip]), shade(rng, (104, 76, 122)), 0.8)
    fill(draw, ring(center, np.full(20, radius * 0.22)), shade(rng, (30, 20, 42), 6))
    return outline


def draw_limpet(draw: ImageDraw.ImageDraw, rng: Random, center: Points) -> Points:
    """A cone from above: light and dark wedges around an off-center apex."""
    wedges, radius = int(rng.integers(9, 13)), rng.uniform(20, 28)
    turn, squash = rng.uniform(0, 6), rng.uniform(0.78, 1.0)
    radii = radius * (1 + 0.05 * np.cos(np.arange(4 * wedges) * np.pi / 2))
    outline = ring(center, radii, turn, squash)
    light, dark = shade(rng, (206, 186, 150)), shade(rng, (112, 88, 66))
    fill(draw, outline, light)
    apex = center + rng.uniform(-0.18, 0.18, 2) * radius
    for wedge in range(wedges):
        start = 4 * wedge
        fill(draw, np.stack([apex, outline[start], outline[start + 1], outline[start + 2]]), dark)
    fill(draw, ring(apex, np.full(16, radius * 0.16)), shade(rng, (236, 226, 204), 8))
    return outline


def draw_kelp(
    draw: ImageDraw.ImageDraw, rng: Random, center: Points, under_wood: bool
) -> list[Points]:
    """A wavy blade with a pale midrib; driftwood over its middle leaves two parts."""
    length, width, turn = rng.uniform(58, 68), rng.uniform(14, 19), rng.uniform(0, np.pi)
    along = np.linspace(-0.5, 0.5, 33)
    wave = rng.uniform(3, 6) * np.sin(along * rng.uniform(6, 10) + rng.uniform(0, 6))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    half = width / 2 * np.sqrt(np.clip(1.02 - (2 * along) ** 4, 0, 1))
    spine = np.stack([along * length, wave], axis=1)
    upper, lower = spine + np.stack([0 * half, half], 1), spine - np.stack([0 * half, half], 1)
    turned = [center + side @ rotation for side in (upper, lower, spine)]
    outline = np.concatenate([turned[0], turned[1][::-1]])
    fill(draw, outline, shade(rng, (76, 92, 42)))
    line(draw, turned[2], shade(rng, (134, 146, 84)), 1.5)
    if not under_wood:
        return [outline]
    draw_wood(draw, rng, turned[2][16], turn)
    ends = (slice(0, 13), slice(20, None))
    return [np.concatenate([turned[0][end], turned[1][end][::-1]]) for end in ends]


def draw_wood(draw: ImageDraw.ImageDraw, rng: Random, middle: Points, turn: float) -> None:
    """A piece of driftwood across a blade of kelp."""
    across = np.array([-np.sin(turn), np.cos(turn)])
    along = np.array([np.cos(turn), np.sin(turn)])
    corners = [(-20, -6.2), (20, -6.2), (20, 6.2), (-20, 6.2)]
    fill(draw, np.stack([middle + a * across + b * along for a, b in corners]), (124, 98, 72))
    for offset in rng.uniform(-5, 5, 3):
        ends = np.stack([middle + a * across + offset * along for a in (-19, 19)])
        line(draw, ends, shade(rng, (94, 72, 52)), 0.8)


def draw_cuttlebone(draw: ImageDraw.ImageDraw, rng: Random, center: Points) -> Points:
    """A pale oval with growth arcs."""
    radius, turn = rng.uniform(26, 32), rng.uniform(0, 6)
    outline = ring(center, np.full(40, radius), turn, 0.42)
    fill(draw, outline, shade(rng, (232, 228, 216), 8))
    for fraction in (0.75, 0.5, 0.25):
        inner = ring(center, np.full(40, radius * fraction), turn, 0.42)
        line(draw, np.concatenate([inner[28:], inner[:13]]), shade(rng, (186, 180, 164), 8), 0.9)
    return outline


def draw_pebble(draw: ImageDraw.ImageDraw, rng: Random, center: Points) -> None:
    """A distractor as large as a limpet or an urchin, in their colors, but plain."""
    colors: tuple[Color, ...] = ((206, 186, 150), (112, 88, 66), (70, 52, 84), (150, 132, 110))
    radius = rng.uniform(16, 25)
    radii = radius * (1 + 0.12 * np.cos(np.linspace(0, 4 * np.pi, 28) + rng.uniform(0, 6)))
    color = shade(rng, colors[rng.integers(len(colors))])
    turn, squash = rng.uniform(0, 6), rng.uniform(0.65, 0.95)
    fill(draw, ring(center, radii, turn, squash), color)
    lit = center + rng.uniform(-0.2, 0.2, 2) * radius
    fill(draw, ring(lit, radii * 0.45, turn, squash), shade(rng, color, 22))


def draw_crack(draw: ImageDraw.ImageDraw, rng: Random, center: Points) -> None:
    """A distractor as long and curved as kelp, but thin."""
    along = np.linspace(-0.5, 0.5, 17)
    turn, wave = rng.uniform(0, np.pi), rng.uniform(3, 6) * np.sin(along * 8 + rng.uniform(0, 6))
    points = np.stack([along * rng.uniform(50, 70), wave + rng.normal(0, 0.6, len(along))], axis=1)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    line(draw, center + points @ rotation, shade(rng, (72, 68, 50)), rng.uniform(1.2, 2.2))


if __name__ == "__main__":
    main()
