"""False alarms on the valid split: absent classes, and nouns that are never trained on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from segtune.dataset.coco import Split
from segtune.dataset.detections import Detection, Detections
from segtune.evaluation.false_alarms import false_alarm_counts
from segtune.model.inference import PROBE_THRESHOLD, Prompts

NOUNS_PER_IMAGE = 2


@dataclass(frozen=True)
class FalseAlarms:
    """Fractions of prompts that are detected though the image does not show them.

    None where there are no such prompts.
    """

    absent_classes: float | None
    held_out_nouns: float | None

    def to_record(self) -> dict[str, float]:
        """What is known, as the history has it."""
        return {name: value for name, value in vars(self).items() if value is not None}


def noun_probes(valid: Split, nouns: Sequence[str]) -> dict[int, Prompts]:
    """The nouns that each image is prompted with, by image id: always the same few.

    A noun has an id that no category of the split has.
    """
    first_id = 1 + max((category.id for category in valid.categories), default=0)
    numbered = list(enumerate(nouns, start=first_id))
    count = min(NOUNS_PER_IMAGE, len(numbered))
    return {
        image.id: [numbered[(place * count + n) % len(numbered)] for n in range(count)]
        for place, image in enumerate(valid.images)
    }


def without_probes(valid: Split, found: Iterable[Detection]) -> Detections:
    """The detections of the split's own categories."""
    categories = {category.id for category in valid.categories}
    return Detections(d for d in found if d.category_id in categories)


def false_alarms(
    valid: Split, detections: Sequence[Detection], probes: Mapping[int, Prompts]
) -> FalseAlarms:
    """The false alarms among all detections, at a score of `PROBE_THRESHOLD`.

    Args:
        valid: the ground truth.
        detections: of its categories and of the probes.
        probes: from `noun_probes`.
    """
    own = without_probes(valid, detections)
    negatives, alarms = false_alarm_counts(valid, own, PROBE_THRESHOLD).sum((0, 1)).tolist()
    prompted = sum(map(len, probes.values()))
    return FalseAlarms(
        absent_classes=alarms / negatives if negatives else None,
        held_out_nouns=(len(detections) - len(own)) / prompted if prompted else None,
    )
