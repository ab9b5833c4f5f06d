"""Images worth looking at, small enough for a page: what is there, found before, found after."""

import base64
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont, ImageOps

from segtune.core.errors import DatasetError
from segtune.dataset.coco import Annotation, Image, Split, has_masks
from segtune.evaluation.error_types import ErrorRecord
from segtune.reports.drawing import silhouette

SIDE = 288  # pixels of the longer side
LETTERS = 12  # pixels
WORST, WORSENED, IMPROVED = 12, 4, 8  # images of each kind at the most
SUSPECTS = 12
MARGIN = 0.5  # around a suspicious label, as a share of its box
# Colors that people with a color vision deficiency tell apart (Okabe and Ito 2008).
TRUTH, RIGHT, WRONG = "#56b4e9", "#009e73", "#d55e00"
FILL = 70  # of 255


@dataclass(frozen=True)
class Shown:
    """One image three times; the images are data URIs."""

    title: str
    why: str
    classes: tuple[str, ...]  # there or found
    kinds: tuple[str, ...]  # of the fine-tuned model's detections and misses
    truth: str
    base: str
    tuned: str
    base_tally: str
    tuned_tally: str


def gallery(split: Split, judged: Mapping[str, Sequence[ErrorRecord]]) -> list[Shown]:
    """The worst images, then those that fine-tuning worsened and improved most.

    Args:
        split: the test split, whose images are read.
        judged: of "base" and "tuned".
    """
    by_image = {model: _by_image(found) for model, found in judged.items()}
    return [
        _shown(split, image, why, {m: by_image[m].get(image.id, []) for m in by_image})
        for image, why in chosen(split, by_image)
    ]


def chosen(
    split: Split, judged: Mapping[str, Mapping[int, Sequence[ErrorRecord]]]
) -> list[tuple[Image, str]]:
    """Which images, and why; none twice.

    Among the worst, one that shows a class and a mistake not seen yet goes before another.
    """
    scores = {
        model: {image.id: image_score(found.get(image.id, [])) for image in split.images}
        for model, found in judged.items()
    }
    gains = {i.id: scores["tuned"][i.id] - scores["base"][i.id] for i in split.images}
    images = list(split.images)
    worst = _covering(images, judged["tuned"], scores["tuned"])
    worsened = sorted((i for i in images if gains[i.id] < 0), key=lambda i: gains[i.id])
    improved = sorted((i for i in images if gains[i.id] > 0), key=lambda i: -gains[i.id])
    taken: dict[int, tuple[Image, str]] = {}
    for candidates, most, why in (
        (worst, WORST, "worst"),
        (worsened, WORSENED, "worse than before"),
        (improved, IMPROVED, "improved most"),
    ):
        free = [image for image in candidates if image.id not in taken]
        taken |= {image.id: (image, why) for image in free[:most]}
    return list(taken.values())


def image_score(judged: Iterable[ErrorRecord]) -> float:
    """F1 of one image; 1 where nothing is there and nothing was found."""
    tally = Counter(j.kind for j in judged)
    right, everything = tally["correct"], sum(tally.values())
    return 2 * right / (right + everything) if everything else 1.0


def crop(split: Split, image: Image, bbox_xywh: Sequence[float]) -> str:
    """The surroundings of a box as a data URI, with the box drawn."""
    x, y, w, h = bbox_xywh
    around = MARGIN * max(w, h)
    left, top = max(0.0, x - around), max(0.0, y - around)
    right, bottom = min(image.width, x + w + around), min(image.height, y + h + around)
    canvas = _open(split, image, (image.width, image.height))
    piece = canvas.crop((int(left), int(top), math.ceil(right), math.ceil(bottom)))
    scale = SIDE / max(piece.size)
    piece = piece.resize([max(1, round(side * scale)) for side in piece.size])
    x, y = (x - int(left)) * scale, (y - int(top)) * scale
    corners = [x, y, x + w * scale, y + h * scale]
    ImageDraw.Draw(piece).rectangle(corners, outline=WRONG, width=2)
    return _data_uri(piece)


def _by_image(judged: Iterable[ErrorRecord]) -> dict[int, list[ErrorRecord]]:
    found: dict[int, list[ErrorRecord]] = {}
    for j in judged:
        found.setdefault(j.image_id, []).append(j)
    return found


def _covering(
    images: Sequence[Image],
    judged: Mapping[int, Sequence[ErrorRecord]],
    scores: Mapping[int, float],
) -> list[Image]:
    imperfect = sorted((i for i in images if scores[i.id] < 1), key=lambda i: scores[i.id])
    seen: set[tuple[int, str]] = set()
    new: list[Image] = []
    rest: list[Image] = []
    for image in imperfect:
        shows = {(j.category_id, j.kind) for j in judged.get(image.id, []) if j.kind != "correct"}
        (rest if shows <= seen else new).append(image)
        seen |= shows
    return [*new, *rest]


def _shown(
    split: Split, image: Image, why: str, judged: Mapping[str, Sequence[ErrorRecord]]
) -> Shown:
    names = {category.id: category.name for category in split.categories}
    objects = split.annotations[image.id]
    scale = SIDE / max(image.width, image.height)
    width, height = (max(1, round(side * scale)) for side in (image.width, image.height))
    canvas = _open(split, image, (width, height))
    # What is judged is drawn: boxes, where no object has a mask.
    boxes = not has_masks(split)
    drawn = {m: _detections(canvas, image, found, names, boxes) for m, found in judged.items()}
    present = {a.category_id for a in objects}
    present |= {j.category_id for found in judged.values() for j in found}
    return Shown(
        title=image.file_name,
        why=why,
        classes=tuple(name for number, name in names.items() if number in present),
        kinds=tuple(sorted({j.kind for j in judged["tuned"]})),
        truth=_data_uri(_objects(canvas, image, objects, names)),
        base=_data_uri(drawn["base"]),
        tuned=_data_uri(drawn["tuned"]),
        base_tally=_tally(judged["base"]),
        tuned_tally=_tally(judged["tuned"]),
    )


def _tally(judged: Sequence[ErrorRecord]) -> str:
    counts = Counter(j.kind for j in judged)
    return ", ".join(f"{n} {kind}" for kind, n in counts.most_common()) or "nothing found"


def _open(split: Split, image: Image, size: tuple[int, int]) -> PilImage.Image:
    path = split.image_path(image)
    try:
        with PilImage.open(path) as opened:
            opened.draft("RGB", (2 * max(size), 2 * max(size)))  # large JPEGs decode smaller
            return ImageOps.exif_transpose(opened).convert("RGB").resize(size)
    except OSError as error:
        raise DatasetError(f"cannot be read ({error})", file=path) from None


def _objects(
    canvas: PilImage.Image, image: Image, objects: Sequence[Annotation], names: Mapping[int, str]
) -> PilImage.Image:
    drawn = canvas.copy()
    for a in objects:
        _draw(drawn, image, a.segmentation, a.bbox_xywh, TRUTH)
    _write(drawn, image, [(a.bbox_xywh, names[a.category_id]) for a in objects])
    return drawn


def _detections(
    canvas: PilImage.Image,
    image: Image,
    judged: Sequence[ErrorRecord],
    names: Mapping[int, str],
    boxes: bool,
) -> PilImage.Image:
    drawn = canvas.copy()
    found = [(j, j.result) for j in judged if j.result]  # best score first
    for j, result in reversed(found):
        color = RIGHT if j.kind == "correct" else WRONG
        _draw(drawn, image, None if boxes else result["segmentation"], result["bbox"], color)
    labels = [
        (result["bbox"], f"{names[j.category_id]} {result['score']:.2f}")
        if j.kind == "correct"
        else (result["bbox"], f"x {names[j.category_id]} {result['score']:.2f}")
        for j, result in found
    ]
    _write(drawn, image, labels)
    return drawn


def _draw(
    drawn: PilImage.Image, image: Image, segmentation: Any, bbox: Sequence[float], color: str
) -> None:
    if not segmentation:
        scale = drawn.width / image.width
        x, y, w, h = (value * scale for value in bbox)
        ImageDraw.Draw(drawn).rectangle((x, y, x + w, y + h), outline=color, width=2)
        return
    inside, edge = silhouette(image, segmentation, drawn.size)
    strength = np.where(edge, 255, np.where(inside, FILL, 0)).astype(np.uint8)
    drawn.paste(color, (0, 0), PilImage.fromarray(strength))


def _write(
    drawn: PilImage.Image, image: Image, labels: Iterable[tuple[Sequence[float], str]]
) -> None:
    """Write each label above its box, but none across another."""
    scale = drawn.width / image.width
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(LETTERS)
    taken: list[tuple[float, float, float]] = []
    for bbox, text in labels:
        width = pen.textlength(text, font)
        x = max(2.0, min(bbox[0] * scale, drawn.width - width - 2))
        y = max(1.0, bbox[1] * scale - LETTERS - 3)
        if all(y + LETTERS < v or v + LETTERS < y or x + width < u or w < x for u, v, w in taken):
            pen.text((x, y), text, "#ffffff", font, stroke_width=2, stroke_fill="#000000")
            taken.append((x, y, x + width))


def _data_uri(canvas: PilImage.Image) -> str:
    file = io.BytesIO()
    canvas.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
