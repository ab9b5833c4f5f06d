"""Make the page of what to label next: thumbnails with pre-labels, and the reason for each."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.core.console import log_line
from segtune.core.errors import DatasetError, exit_on_error
from segtune.dataset.labels import read_labels
from segtune.evaluation.suggestion import read_suggestions
from segtune.reports.suggestions_page import write_suggestions_page


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="segtune.suggest_page", description=__doc__)
    parser.add_argument("--suggestions", type=Path, required=True, help="JSON of segtune.suggest")
    parser.add_argument("--labels", type=Path, required=True, help="labels.json beside it")
    parser.add_argument("--images", type=Path, required=True, help="the folder of the images")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    arguments = parser.parse_args(argv)
    with exit_on_error("suggest_page"):
        suggestions = read_suggestions(arguments.suggestions)
        labels, scores = read_labels(arguments.labels, arguments.images)
        suggested = [one.file_name for one in suggestions.suggestions]
        classes = {c.name for c in suggestions.classes}
        named = {u.name for one in suggestions.suggestions for u in one.uncertain}
        if [image.file_name for image in labels.images] != suggested or not named <= classes:
            raise DatasetError(
                "these labels are of other images than the suggestions",
                file=arguments.labels,
                fix="Give the files of one segtune.suggest, or run it again",
            )
        write_suggestions_page(arguments.out, suggestions=suggestions, labels=labels, scores=scores)
        log_line(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
