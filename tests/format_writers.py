"""Writers of exports in each format, following the formats' own definitions.

A scene can be written in any of them; the readers in `src` must give it back.
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as mask_utils

CLASSES = ["crab", "sea star", "weed"]
COLUMNS = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")  # TensorFlow
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Thing:
    """An object with a polygon, with a mask or, without either, with a box only."""

    label: int
    box_xywh: tuple[float, float, float, float]
    polygon: tuple[float, ...] = ()
    mask: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class DrawnImage:
    """An image to be written, and its objects."""

    stem: str
    width: int
    height: int
    things: tuple[Thing, ...]

    @property
    def name(self) -> str:
        return f"{self.stem}.jpg"


Scene = dict[str, list[DrawnImage]]


def draw(folder: Path, drawn_images: Iterable[DrawnImage]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for drawn in drawn_images:
        Image.new("RGB", (drawn.width, drawn.height), (9, 99, 199)).save(folder / drawn.name)


def write_coco(folder: Path, scene: Scene) -> None:
    for split, drawn_images in scene.items():
        draw(folder / split, drawn_images)
        annotations = [
            {
                "id": number,
                "image_id": index,
                "category_id": thing.label + 1,
                "bbox": list(thing.box_xywh),
                "area": thing.box_xywh[2] * thing.box_xywh[3],
                "segmentation": _coco_mask(thing),
                "iscrowd": 0,
            }
            for number, (index, thing) in enumerate(
                (i, t) for i, drawn in enumerate(drawn_images) for t in drawn.things
            )
        ]
        images = [
            {"id": i, "file_name": p.name, "width": p.width, "height": p.height}
            for i, p in enumerate(drawn_images)
        ]
        names = ["reef", *CLASSES]
        categories = [
            {"id": i, "name": name, "supercategory": "reef" if i else "none"}
            for i, name in enumerate(names)
        ]
        tables = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(tables))


def _coco_mask(thing: Thing) -> Any:
    if thing.mask is not None:
        return rle_of(thing.mask)
    return [list(thing.polygon)] if thing.polygon else []


def rle_of(mask: npt.NDArray[np.uint8]) -> dict[str, Any]:
    rle = mask_utils.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def write_yolo(folder: Path, scene: Scene, names: Any = CLASSES) -> None:
    for split, drawn_images in scene.items():
        draw(folder / split / "images", drawn_images)
        (folder / split / "labels").mkdir()
        for drawn in drawn_images:
            lines = [_yolo_line(thing, drawn) for thing in drawn.things]
            path = folder / split / "labels" / f"{drawn.stem}.txt"
            path.write_text("\n".join(lines))
    paths = {"train": "../train/images", "val": "/home/somebody/reef/valid/images"}
    settings = {**paths, "test": "../test/images", "nc": len(CLASSES), "names": names}
    (folder / "data.yaml").write_text(json.dumps(settings))  # JSON is YAML


def _yolo_line(thing: Thing, drawn: DrawnImage) -> str:
    x, y, w, h = thing.box_xywh
    values = [x + w / 2, y + h / 2, w, h]
    values = list(thing.polygon) or values
    sides = [drawn.width, drawn.height] * (len(values) // 2)
    fractions = [f"{v / side:.9f}" for v, side in zip(values, sides, strict=True)]
    return " ".join([str(thing.label), *fractions])


def write_voc(folder: Path, scene: Scene) -> None:
    for split, drawn_images in scene.items():
        draw(folder / split, drawn_images)
        for drawn in drawn_images:
            objects = "".join(_voc_object(thing) for thing in drawn.things)
            text = f"<annotation><filename>{drawn.name}</filename>{objects}</annotation>"
            (folder / split / f"{drawn.stem}.xml").write_text(text)


def _voc_object(thing: Thing) -> str:
    x, y, w, h = thing.box_xywh
    corners = {"xmin": x, "xmax": x + w, "ymin": y, "ymax": y + h}
    box = "".join(f"<{name}>{round(value)}</{name}>" for name, value in corners.items())
    points = "".join(
        f"<{'xy'[i % 2]}{i // 2 + 1}>{value!r}</{'xy'[i % 2]}{i // 2 + 1}>"
        for i, value in enumerate(thing.polygon)
    )
    polygon = f"<polygon>{points}</polygon>" if points else ""
    name = CLASSES[thing.label]
    return f"<object><name>{name}</name><bndbox>{box}</bndbox>{polygon}</object>"


def write_createml(folder: Path, scene: Scene) -> None:
    for split, drawn_images in scene.items():
        draw(folder / split, drawn_images)
        entries = [
            {
                "image": drawn.name,
                "annotations": [
                    {"label": CLASSES[t.label], "coordinates": _centered(t)} for t in drawn.things
                ],
            }
            for drawn in drawn_images
        ]
        (folder / split / "_annotations.createml.json").write_text(json.dumps(entries))


def _centered(thing: Thing) -> dict[str, float]:
    x, y, w, h = thing.box_xywh
    return {"x": x + w / 2, "y": y + h / 2, "width": w, "height": h}


def write_tensorflow(folder: Path, scene: Scene) -> None:
    for split, drawn_images in scene.items():
        draw(folder / split, drawn_images)
        with (folder / split / "_annotations.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for p in drawn_images:
                for thing in p.things:
                    x, y, w, h = thing.box_xywh
                    corners = [round(x), round(y), round(x + w), round(y + h)]
                    writer.writerow([p.name, p.width, p.height, CLASSES[thing.label], *corners])


def write_sam2(folder: Path, scene: Scene) -> None:
    for split, drawn_images in scene.items():
        draw(folder / split, drawn_images)
        for number, p in enumerate(drawn_images):
            image = {"image_id": number, "file_name": p.name, "width": p.width, "height": p.height}
            annotations = [
                {"id": i, "segmentation": rle_of(t.mask), "bbox": list(t.box_xywh), "area": 1}
                for i, t in enumerate(p.things)
                if t.mask is not None
            ]
            values = {"image": image, "annotations": annotations}
            (folder / split / f"{p.stem}.json").write_text(json.dumps(values))


def write_semantic(folder: Path, scene: Scene) -> None:
    for split, drawn_images in scene.items():
        draw(folder / split, drawn_images)
        lines = ["Pixel Value, Class", "0, background"]
        lines += [f"{i}, {name}" for i, name in enumerate(CLASSES, start=1)]
        (folder / split / "_classes.csv").write_text("\n".join(lines))
        for p in drawn_images:
            pixels = np.zeros((p.height, p.width), np.uint8)
            for thing in p.things:
                assert thing.mask is not None
                pixels[thing.mask > 0] = thing.label + 1
            Image.fromarray(pixels).save(folder / split / f"{p.stem}_mask.png")


WRITERS = {
    "coco": write_coco,
    "yolo": write_yolo,
    "voc": write_voc,
    "createml": write_createml,
    "tensorflow": write_tensorflow,
    "sam2": write_sam2,
    "semantic": write_semantic,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "sam2": {"class_name": "crab"},
    "semantic": {"connected_components": True},
}
