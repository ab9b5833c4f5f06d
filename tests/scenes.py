"""Ground truth and detections made by hand or at random, in memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segtune.dataset.coco import Annotation, Category, Image, Split
from segtune.dataset.detections import Detection, Detections
from segtune.dataset.masks import (
    Rle,
    Segmentation,
    mask_to_rle,
    rle_area,
    rle_bbox_xywh,
    segmentation_to_rle,
)
from segtune.evaluation.average_precision import Kind

SIDE = 100  # pixels
Box = tuple[int, int, int, int]

KINDS: list[Kind] = ["box", "mask"]
OBJECTS: list[tuple[int, int, Box]] = [(1, 1, (10, 10, 40, 40)), (2, 2, (30, 30, 40, 40))]


def rectangle(box_xywh: Box) -> Rle:
    """A filled box as a mask."""
    x, y, w, h = box_xywh
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask_to_rle(mask)


def split_of(objects: list[tuple[int, int, Box]], images: int = 2) -> Split:
    """Objects as (image, class, box), their masks filled; two classes."""
    annotations: dict[int, tuple[Annotation, ...]] = dict.fromkeys(range(1, images + 1), ())
    for number, (image, category, box) in enumerate(objects, start=1):
        x, y, w, h = box
        found = Annotation(
            id=number,
            image_id=image,
            category_id=category,
            bbox_xywh=(x, y, w, h),
            area=float(w * h),
            segmentation=rectangle(box),
            iscrowd=0,
        )
        annotations[image] = (*annotations[image], found)
    return Split(
        name="test",
        root=Path(),
        categories=(Category(1, "cat", "cat"), Category(2, "dog", "dog")),
        images=tuple(Image(n, f"{n}.jpg", SIDE, SIDE) for n in annotations),
        annotations=annotations,
    )


def box_only(number: int, image: int, category: int, box: Box) -> Annotation:
    """An object without a mask."""
    x, y, w, h = box
    return Annotation(
        id=number,
        image_id=image,
        category_id=category,
        bbox_xywh=(x, y, w, h),
        area=float(w * h),
        segmentation=None,
        iscrowd=0,
    )


def detection(image: int, category: int, box: Box, score: float = 0.9) -> Detection:
    """A detection whose mask is its filled box."""
    return Detection(
        image_id=image, category_id=category, score=score, bbox_xywh=box, rle=rectangle(box)
    )


def random_case(seed: int) -> tuple[Split, Detections]:
    """25 rectangles of two classes in five images, each detected roughly, and 20 strays."""
    rng = np.random.default_rng(seed)

    def box() -> Box:
        w, h = (int(v) for v in rng.integers(4, 60, 2))
        return int(rng.integers(0, SIDE - w)), int(rng.integers(0, SIDE - h)), w, h

    objects = [(int(rng.integers(1, 6)), int(rng.integers(1, 3)), box()) for _ in range(25)]
    found = []
    for image, category, (x, y, w, h) in objects:
        shifted = (max(0, x - int(rng.integers(0, 6))), y, w, max(2, h - int(rng.integers(0, 5))))
        found.append(detection(image, category, shifted, float(rng.random())))
    strays = [detection(int(rng.integers(1, 6)), 1, box(), float(rng.random())) for _ in range(20)]
    return split_of(objects, images=5), Detections(found + strays)


def random_shapes(seed: int) -> tuple[Split, Detections]:
    """Polygons and crowds in images of several sizes; three classes, the last one unused."""
    rng = np.random.default_rng(seed)
    sizes = {1: (90, 140), 2: (120, 60), 3: (64, 64)}
    annotations: dict[int, list[Annotation]] = {image: [] for image in sizes}
    detections: list[Detection] = []
    for number in range(1, 31):
        image, category = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        center, radii = rng.uniform(10, 50, 2), rng.uniform(3, 25, 2)
        truth = _ellipse_annotation(image, category, ellipse(center, radii), sizes[image])
        if rng.random() < 0.2:
            # COCO writes crowds as RLE and single objects as polygons.
            rle = segmentation_to_rle(truth.segmentation or [], *sizes[image])
            truth = replace(truth, iscrowd=1, segmentation=rle)
        annotations[image].append(replace(truth, id=number))
        for _ in range(int(rng.integers(0, 4))):
            guess = ellipse(center + rng.normal(0, 2, 2), radii * rng.uniform(0.8, 1.2, 2))
            rle = segmentation_to_rle(guess, *sizes[image])
            guessed = int(rng.choice([category, category, 3]))
            detections.append(
                Detection(image, guessed, float(rng.random()), rle_bbox_xywh(rle), rle)
            )
    names = ("cat", "dog", "owl")
    split = Split(
        name="test",
        root=Path(),
        categories=tuple(Category(n, name, name) for n, name in enumerate(names, start=1)),
        images=tuple(Image(n, f"{n}.jpg", width, height) for n, (height, width) in sizes.items()),
        annotations={image: tuple(found) for image, found in annotations.items()},
    )
    return split, Detections(detections)


def _ellipse_annotation(
    image: int, category: int, polygons: Segmentation, size: tuple[int, int]
) -> Annotation:
    rle = segmentation_to_rle(polygons, *size)
    return Annotation(
        id=0,
        image_id=image,
        category_id=category,
        bbox_xywh=rle_bbox_xywh(rle),
        area=rle_area(rle),
        segmentation=polygons,
        iscrowd=0,
    )


def ellipse(center: Any, radii: Any) -> list[list[float]]:
    """An ellipse as a polygon of 24 corners, in pixels."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None]
    points = center + radii * np.concatenate([np.cos(angles), np.sin(angles)], 1)
    return [points.flatten().tolist()]
