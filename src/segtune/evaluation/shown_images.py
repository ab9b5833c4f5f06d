"""Which images show best how runs differ, with what each run detects in them."""

from collections.abc import Mapping
from itertools import zip_longest

from segtune.dataset.coco import Annotation
from segtune.evaluation.run_scores import ImageChange, ScoredRuns
from segtune.evaluation.runs_file import ShownImage, ShownObject, ShownRun

MAX_IMAGES = 12


def shown_images(reference: str, scored: Mapping[str, ScoredRuns]) -> tuple[ShownImage, ...]:
    """The images with the greatest changes, of each comparison in turns; each only once.

    Args:
        reference: name of the reference.
        scored: of each run that was scored, by its name.
    """
    turns = zip_longest(
        *([(name, change) for change in s.scores.changed_images] for name, s in scored.items())
    )
    chosen: dict[int, tuple[str, ImageChange]] = {}
    for name, change in (candidate for turn in turns for candidate in turn if candidate):
        if len(chosen) < MAX_IMAGES:
            chosen.setdefault(change.image_id, (name, change))
    return tuple(_shown(reference, name, change, scored=scored) for name, change in chosen.values())


def _shown(
    reference: str, name: str, change: ImageChange, *, scored: Mapping[str, ScoredRuns]
) -> ShownImage:
    """An image that was chosen for what changed from the reference to a run."""
    truth = scored[name].truth
    image = next(i for i in truth.images if i.id == change.image_id)
    names = {c.id: c.name for c in truth.categories}
    runs = [_shown_run(reference, scored[name], "reference", image.id)]
    runs += [
        _shown_run(other, found, "run", image.id)
        for other, found in scored.items()
        if image.id in found.errors["run"]
    ]
    return ShownImage(
        file_name=image.file_name,
        root=str(truth.root),
        width=image.width,
        height=image.height,
        reason=_reason(name, change),
        ground_truth=tuple(_label(a, names) for a in truth.annotations[image.id]),
        runs=tuple(runs),
    )


def _shown_run(name: str, scored: ScoredRuns, model: str, image_id: int) -> ShownRun:
    names = {c.id: c.name for c in scored.truth.categories}
    errors = scored.errors[model][image_id]
    return ShownRun(
        name=name,
        detections=tuple(
            ShownObject(
                name=names[e.category_id],
                bbox_xywh=e.detection.bbox_xywh,
                # What is compared is drawn: boxes, where no object has a mask.
                rle=e.detection.rle if scored.scores.kind == "mask" else None,
                score=e.detection.score,
                correct=e.type == "correct",
            )
            for e in errors
            if e.detection
        ),
        missed=sum(e.type == "missed" for e in errors),
    )


def _label(a: Annotation, names: Mapping[int, str]) -> ShownObject:
    rle = a.segmentation if isinstance(a.segmentation, dict) else None
    return ShownObject(names[a.category_id], a.bbox_xywh, rle)


def _reason(name: str, change: ImageChange) -> str:
    return f"{name}: F1 {change.f1_reference:.2f} to {change.f1_run:.2f}"
