"""Labels that may be wrong: where the fine-tuned model is sure and the label disagrees.

For people who look at these pictures before they label more. How sure is measured on the
data itself: by the share of right ones among the class's detections that score as high.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from segtune.calibration import at_threshold, trust
from segtune.coco import Split
from segtune.matches import ClassMatches
from segtune.mistakes import Judged, Kind

Reason = Literal["unlabelled", "another class", "poor outline", "nothing there"]
REASONS: dict[Kind, Reason] = {
    "background": "unlabelled",
    "classification": "another class",
    "localisation": "poor outline",
    "missed": "nothing there",
}
LEAST = 0.5  # suspicion


@dataclass(frozen=True)
class Suspect:
    """A label, or the lack of one, that should be looked at."""

    reason: Reason
    split: str
    file_name: str
    image_id: int
    annotation_id: int | None  # of the label; None where one seems to be missing
    labelled: str | None  # class
    found: str | None  # class
    score: float | None  # of the detection
    suspicion: float  # 0 to 1
    bbox_xywh: tuple[float, ...]  # pixels; the label's, or the detection's


def find_suspects(
    split: Split, judged: Sequence[Judged], classes: Sequence[ClassMatches], most: int
) -> list[Suspect]:
    """The most suspicious labels of a split, the worst first.

    A detection is as suspicious as its score is to be trusted, a label which nothing met, not
    even in part, as rarely as labels of its class are missed.

    Args:
        split: with the labels.
        judged: the fine-tuned model's detections, from low scores on.
        classes: per class, its matches on the split.
        most: suspects at the most.
    """
    places = {category.id: place for place, category in enumerate(split.categories)}
    names = {category.id: category.name for category in split.categories}
    files = {image.id: image.file_name for image in split.images}
    settled = {j.annotation.id for j in judged if j.kind == "correct" and j.annotation}
    related = {j.annotation.id for j in judged if j.kind != "missed" and j.annotation}
    suspects = []
    for j in judged:
        known = j.annotation.id if j.annotation else None
        if j.kind not in REASONS or known in settled or (j.kind == "missed" and known in related):
            continue
        suspicion = _suspicion(j, classes[places[j.category_id]])
        if suspicion >= LEAST:
            suspects.append(_suspect(j, split.name, files, names, suspicion))
    return sorted(suspects, key=lambda s: (-s.suspicion, -(s.score or 0.0)))[:most]


def _suspicion(j: Judged, matches: ClassMatches) -> float:
    if j.score is not None:
        return trust(matches, j.score)
    return at_threshold(matches, 0.0).recall or 0.0


def _suspect(
    j: Judged, split: str, files: Mapping[int, str], names: Mapping[int, str], suspicion: float
) -> Suspect:
    bbox = j.annotation.bbox_xywh if j.annotation else j.result["bbox"] if j.result else ()
    return Suspect(
        reason=REASONS[j.kind],
        split=split,
        file_name=files[j.image_id],
        image_id=j.image_id,
        annotation_id=j.annotation.id if j.annotation else None,
        labelled=names[j.annotation.category_id] if j.annotation else None,
        found=names[j.category_id] if j.result else None,
        score=j.score,
        suspicion=suspicion,
        bbox_xywh=tuple(bbox),
    )
