"""What went wrong: every detection and every missed object by its kind of mistake.

The kinds are those of TIDE (Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object
Detection Errors"), with its overlaps: 0.5 to be right, 0.1 to have anything to do with it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segtune.coco import Annotation, Image, Split
from segtune.ious import ious

Kind = Literal[
    "correct", "classification", "localisation", "both", "duplicate", "background", "missed"
]
Array = npt.NDArray[Any]
Result = Mapping[str, Any]

KINDS: tuple[Kind, ...] = (
    "correct", "classification", "localisation", "both", "duplicate", "background", "missed",
)  # fmt: skip
RIGHT = 0.5  # IoU from which a detection means an object
RELATED = 0.1  # IoU below which it has nothing to do with it
NOTHING = "(nothing)"


@dataclass(frozen=True)
class Judged:
    """A detection, or an object that was missed."""

    kind: Kind
    image_id: int
    category_id: int  # of the detection; of the object where it was missed
    score: float | None  # None where missed
    iou: float  # with `annotation`
    annotation: Annotation | None  # the object that it has most to do with
    result: Result | None  # None where missed


def judge(
    split: Split,
    results: Iterable[Result],
    thresholds: Mapping[int, float],
    with_masks: bool,
) -> list[Judged]:
    """Say of every detection what it is, and which objects were missed.

    Detections of a class meet its objects from the best score on, each the free object that
    it covers best. One that meets a crowd, or with masks an object with a box alone, is left
    out; so are these. An object that another mistake explains (it was found with the wrong
    class or a poor outline) does not count as missed as well.

    Args:
        split: the ground truth.
        results: detections in COCO's results format.
        thresholds: class id -> score from which detections count.
        with_masks: compare masks, else boxes.
    """
    found: dict[int, list[Result]] = {image.id: [] for image in split.images}
    for result in results:
        if result["score"] >= thresholds[result["category_id"]]:
            found[result["image_id"]].append(result)
    judged: list[Judged] = []
    for image in split.images:
        detections = sorted(found[image.id], key=lambda result: -result["score"])
        judged += _judge_picture(split, image, detections, with_masks)
    return judged


def counts(judged: Iterable[Judged], names: Mapping[int, str]) -> dict[str, dict[str, int]]:
    """Class name -> kind -> how many."""
    found = Counter((j.category_id, j.kind) for j in judged)
    return {
        name: {kind: found[category, kind] for kind in KINDS} for category, name in names.items()
    }


def confusion(judged: Iterable[Judged], names: Mapping[int, str]) -> dict[str, dict[str, int]]:
    """What is there -> what was said -> how many; "(nothing)" for either.

    An object with a poor outline was called by its name all the same. A second detection of
    the same object is left out.
    """
    table = {there: dict.fromkeys([*names.values(), NOTHING], 0) for there in names.values()}
    table[NOTHING] = dict.fromkeys(names.values(), 0)
    for j in judged:
        said = names[j.category_id]
        if j.kind == "missed":
            table[said][NOTHING] += 1
        elif j.kind in ("correct", "classification", "localisation") and j.annotation:
            table[names[j.annotation.category_id]][said] += 1
        elif j.kind in ("both", "background"):
            table[NOTHING][said] += 1
    return table


def _judge_picture(
    split: Split, image: Image, detections: Sequence[Result], with_masks: bool
) -> list[Judged]:
    objects = split.annotations[image.id]
    if not objects and not detections:
        return []
    unclear = [a.iscrowd or (with_masks and not a.segmentation) for a in objects]
    ignored = np.array(unclear, bool)
    overlaps = ious(image, detections, objects, ignored.tolist(), with_masks)
    taken: dict[int, int] = {}  # object -> detection
    explained: set[int] = set()
    judged: list[Judged] = []
    meetings = [_meet(overlaps[d], objects, ignored, taken, d, r) for d, r in enumerate(detections)]
    for number, (result, met) in enumerate(zip(detections, meetings, strict=True)):
        kind, place = met or _mistake(overlaps[number], objects, ignored, result["category_id"])
        if kind is None:
            continue
        explained |= {place} if kind in ("correct", "classification", "localisation") else set()
        annotation = objects[place] if kind != "background" and place >= 0 else None
        iou = float(overlaps[number, place]) if place >= 0 else 0.0
        where = (image.id, result["category_id"], float(result["score"]))
        judged.append(Judged(kind, *where, iou, annotation, result))
    for place, a in enumerate(objects):
        if place not in explained and not ignored[place]:
            judged.append(Judged("missed", image.id, a.category_id, None, 0.0, a, None))
    return judged


def _meet(
    overlaps: Array,
    objects: Sequence[Annotation],
    ignored: Array,
    taken: dict[int, int],
    number: int,
    result: Result,
) -> tuple[Kind | None, int] | None:
    """Take the best free object of the detection's class; a crowd swallows what is left."""
    own = [
        place
        for place, a in enumerate(objects)
        if a.category_id == result["category_id"] and overlaps[place] >= RIGHT
    ]
    free = [place for place in own if place not in taken and not ignored[place]]
    if free:
        best = max(free, key=lambda place: overlaps[place])
        taken[best] = number
        return "correct", best
    return (None, -1) if any(ignored[place] for place in own) else None


def _mistake(
    overlaps: Array, objects: Sequence[Annotation], ignored: Array, category: int
) -> tuple[Kind, int]:
    """The kind of a detection that met no free object of its class, and the nearest object."""
    own = np.array([a.category_id == category for a in objects], bool)
    best_own, place_own = _best(np.where(own & ~ignored, overlaps, -1.0))
    best_other, place_other = _best(np.where(~own & ~ignored, overlaps, -1.0))
    if best_own >= RIGHT:
        return "duplicate", place_own
    if best_other >= RIGHT:
        return "classification", place_other
    if best_own >= RELATED:
        return "localisation", place_own
    if best_other >= RELATED:
        return "both", place_other
    return "background", -1


def _best(overlaps: Array) -> tuple[float, int]:
    if not len(overlaps):
        return -1.0, -1
    place = int(np.argmax(overlaps))
    return float(overlaps[place]), place
