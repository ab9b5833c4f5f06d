"""Images worth looking at: which ones and why, as ground truth, zero-shot and fine-tuned."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image as PilImage

from segtune.dataset.coco import Image, Split, has_masks
from segtune.evaluation.error_types import ErrorRecord
from segtune.reports.drawing import (
    CORRECT,
    ERROR,
    FILL,
    GROUND_TRUTH,
    THUMBNAIL,
    Label,
    data_uri,
    draw_object,
    open_fitted,
    write_labels,
)

MAX_WORST, MAX_REGRESSED, MAX_IMPROVED = 12, 4, 8  # images
WORST, REGRESSED, IMPROVED = "worst", "got worse", "most improved"
REASONS = (WORST, REGRESSED, IMPROVED)

ErrorsByImage = Mapping[int, Sequence[ErrorRecord]]


@dataclass(frozen=True)
class GalleryImage:
    """One image three times, as data URIs, and what the filters need to know."""

    title: str
    reason: str
    classes: tuple[str, ...]  # labeled or detected
    types: tuple[str, ...]  # of the fine-tuned model's detections and misses
    ground_truth: str
    base: str
    tuned: str
    ground_truth_tally: str
    base_tally: str
    tuned_tally: str


def gallery(split: Split, errors: Mapping[str, Iterable[ErrorRecord]]) -> list[GalleryImage]:
    """The worst images, then those that got worse and improved most by fine-tuning.

    Args:
        split: the test split, whose images are read.
        errors: of "base" and "tuned".

    Raises:
        DatasetError: when an image cannot be read.
    """
    by_image = {model: group_by_image(found) for model, found in errors.items()}
    return [
        _drawn(split, image, reason, {m: found.get(image.id, []) for m, found in by_image.items()})
        for image, reason in choose_images(split, by_image)
    ]


def choose_images(split: Split, errors: Mapping[str, ErrorsByImage]) -> list[tuple[Image, str]]:
    """Which images to show, and why; each only once.

    Among the worst, one with an error type of a class that is not shown yet goes first.
    """
    scores = {
        model: {image.id: image_f1(found.get(image.id, [])) for image in split.images}
        for model, found in errors.items()
    }
    gains = {i.id: scores["tuned"][i.id] - scores["base"][i.id] for i in split.images}
    images = list(split.images)
    worst = _new_errors_first(images, errors["tuned"], scores["tuned"])
    regressed = sorted((i for i in images if gains[i.id] < 0), key=lambda i: gains[i.id])
    improved = sorted((i for i in images if gains[i.id] > 0), key=lambda i: -gains[i.id])
    taken: dict[int, tuple[Image, str]] = {}
    for candidates, limit, reason in (
        (worst, MAX_WORST, WORST),
        (regressed, MAX_REGRESSED, REGRESSED),
        (improved, MAX_IMPROVED, IMPROVED),
    ):
        free = [image for image in candidates if image.id not in taken]
        taken |= {image.id: (image, reason) for image in free[:limit]}
    return list(taken.values())


def image_f1(errors: Iterable[ErrorRecord]) -> float:
    """F1 of one image; 1 where there are neither objects nor detections."""
    tally = Counter(e.type for e in errors)
    correct, total = tally["correct"], sum(tally.values())
    return 2 * correct / (correct + total) if total else 1.0


def group_by_image(errors: Iterable[ErrorRecord]) -> dict[int, list[ErrorRecord]]:
    """Image id -> its detections and misses."""
    found: dict[int, list[ErrorRecord]] = {}
    for e in errors:
        found.setdefault(e.image_id, []).append(e)
    return found


def _new_errors_first(
    images: Sequence[Image], errors: ErrorsByImage, scores: Mapping[int, float]
) -> list[Image]:
    imperfect = sorted((i for i in images if scores[i.id] < 1), key=lambda i: scores[i.id])
    seen: set[tuple[int, str]] = set()
    new: list[Image] = []
    rest: list[Image] = []
    for image in imperfect:
        shows = {(e.category_id, e.type) for e in errors.get(image.id, []) if e.type != "correct"}
        (rest if shows <= seen else new).append(image)
        seen |= shows
    return [*new, *rest]


def _drawn(
    split: Split, image: Image, reason: str, errors: Mapping[str, Sequence[ErrorRecord]]
) -> GalleryImage:
    names = {category.id: category.name for category in split.categories}
    canvas = open_fitted(split, image, THUMBNAIL)
    # What is compared is drawn: boxes, where no object has a mask.
    with_masks = has_masks(split)
    base, tuned = (
        _with_detections(canvas, image, errors[model], names, with_masks=with_masks)
        for model in ("base", "tuned")
    )
    labeled = Counter(a.category_id for a in split.annotations[image.id])
    shown = labeled.keys() | {e.category_id for found in errors.values() for e in found}
    return GalleryImage(
        title=image.file_name,
        reason=reason,
        classes=tuple(name for number, name in names.items() if number in shown),
        types=tuple(sorted({e.type for e in errors["tuned"]})),
        ground_truth=data_uri(_with_ground_truth(canvas, split, image, names)),
        base=data_uri(base),
        tuned=data_uri(tuned),
        ground_truth_tally=_tally(names[number] for number in labeled.elements()) or "no objects",
        base_tally=_tally(e.type for e in errors["base"]) or "no detections",
        tuned_tally=_tally(e.type for e in errors["tuned"]) or "no detections",
    )


def _tally(names: Iterable[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common())


def _with_ground_truth(
    canvas: PilImage.Image, split: Split, image: Image, names: Mapping[int, str]
) -> PilImage.Image:
    drawn, objects = canvas.copy(), split.annotations[image.id]
    for a in objects:
        draw_object(drawn, image, a.segmentation, a.bbox_xywh, color=GROUND_TRUTH, fill=FILL)
    write_labels(drawn, image, [Label(a.bbox_xywh, names[a.category_id]) for a in objects])
    return drawn


def _with_detections(
    canvas: PilImage.Image,
    image: Image,
    errors: Sequence[ErrorRecord],
    names: Mapping[int, str],
    *,
    with_masks: bool,
) -> PilImage.Image:
    drawn = canvas.copy()
    found = [(e.type == "correct", e.detection) for e in errors if e.detection]  # best score first
    for correct, d in reversed(found):
        mask, color = d.rle if with_masks else None, CORRECT if correct else ERROR
        draw_object(drawn, image, mask, d.bbox_xywh, color=color, fill=FILL)
    labels = [
        Label(d.bbox_xywh, f"{'' if correct else 'x '}{names[d.category_id]} {d.score:.2f}")
        for correct, d in found
    ]
    write_labels(drawn, image, labels)
    return drawn
