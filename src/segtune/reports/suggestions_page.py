"""The page of what to label next: each image with its pre-labels, and why it is suggested."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.dataset.coco import Split
from segtune.evaluation.suggestion import ClassState, Suggestion, Suggestions, UncertainClass
from segtune.reports.drawing import THUMBNAIL, data_uri, drawn_labels
from segtune.reports.page import write_page

MAX_CLASSES = 2  # in the reason for an image
MAX_SCORES = 4  # of a class
UNLIKE, LIKE = 0.75, 0.25  # fractions of the images that are nearer to a training image


@dataclass(frozen=True)
class _Shown:
    """An image of the page."""

    rank: int
    suggestion: Suggestion
    reason: str
    drawn: str  # the image with its pre-labels, as a data URI
    labels: int


def write_suggestions_page(
    path: Path, *, suggestions: Suggestions, labels: Split, scores: Mapping[int, float]
) -> None:
    """Write the page of suggestions.

    Args:
        path: of the HTML file.
        suggestions: what was suggested.
        labels: pre-labels of these images, in the same order; the images are read.
        scores: of the pre-labels by annotation id.

    Raises:
        DatasetError: when an image cannot be read.
    """
    classes = {c.name: c for c in suggestions.classes}
    shown = [
        _Shown(
            rank=rank,
            suggestion=suggestion,
            reason=reason(suggestion, classes),
            drawn=data_uri(drawn_labels(labels, image, scores, side=THUMBNAIL)),
            labels=len(labels.annotations[image.id]),
        )
        for rank, (suggestion, image) in enumerate(
            zip(suggestions.suggestions, labels.images, strict=True), start=1
        )
    ]
    write_page(
        path,
        "suggestions_page.html.j2",
        tone="neutral",
        status="What to label next",
        heading=f"{len(shown)} of {suggestions.images} images to label next",
        s=suggestions,
        shown=shown,
    )


def reason(suggestion: Suggestion, classes: Mapping[str, ClassState]) -> str:
    """Why an image is suggested, in words.

    Args:
        suggestion: the image.
        classes: by name, those of the suggestions.
    """
    named = suggestion.uncertain[:MAX_CLASSES]
    parts = [*map(_doubts, named)] or ["no uncertain detections"]
    parts += [_ap(classes[one.name]) for one in named]
    if suggestion.unlike is not None and suggestion.unlike >= UNLIKE:
        parts.append("unlike the training images")
    elif suggestion.unlike is not None and suggestion.unlike <= LIKE:
        parts.append("similar to a training image")
    return "; ".join(parts)


def _doubts(found: UncertainClass) -> str:
    return f"{len(found.scores)} uncertain {found.name} ({_listed(found.scores)})"


def _listed(scores: Sequence[float]) -> str:
    some = ", ".join(f"{score:.2f}" for score in sorted(scores[:MAX_SCORES]))
    return some + (", …" if len(scores) > MAX_SCORES else "")


def _ap(state: ClassState) -> str:
    known = "no AP" if state.ap is None else f"AP {state.ap:.2f}"
    return f"{state.name} has {known}"
