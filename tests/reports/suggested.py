"""Suggestions of what to label next, and their page."""

from pathlib import Path

from segtune import suggest_page
from segtune.core.typed_json import write_typed
from segtune.dataset.coco import read_split
from segtune.dataset.detections import to_record
from segtune.dataset.labels import write_labels
from segtune.evaluation.suggestion import ClassState, Suggestion, Suggestions, UncertainClass
from tests.converted import write_converted
from tests.predictions import perfect


def write_suggestions(folder: Path, name: str) -> Path:
    """The page of three images; one is unlike the others and one similar to them.

    Args:
        folder: for all files.
        name: of the first class.
    """
    coco = write_converted(folder, {"test": 3})
    names = ["test/1.png", "test/2.png", "test/3.png"]
    first = UncertainClass(name, [0.3, 0.41, 0.2, 0.5, 0.1], 3.1)
    second = UncertainClass("square", [0.5], 1.0)
    reasons = [([first, second], 0.99), ([second], 0.5), ([], 0.0)]
    suggestions = Suggestions(
        images=12,
        labeled=2,
        repeated=1,
        training_images=4,
        classes=[ClassState(name, 0.3, 0.21), ClassState("square", 0.5, None)],
        suggestions=[
            Suggestion(
                file_name=file_name,
                uncertainty=sum(u.uncertainty for u in uncertain),
                uncertain=uncertain,
                nearest="train/1.png",
                distance=unlike / 2,
                unlike=unlike,
            )
            for file_name, (uncertain, unlike) in zip(names, reasons, strict=True)
        ],
    )
    write_typed(folder / "suggestions.json", suggestions)
    split = read_split(coco / "test.json")
    write_labels(folder / "labels.json", split, map(to_record, perfect(coco)))
    files = ["--suggestions", folder / "suggestions.json", "--labels", folder / "labels.json"]
    page = folder / "suggestions.html"
    suggest_page.main([*map(str, files), "--images", str(folder), "--out", str(page)])
    return page
