"""Evaluating in a test, with predictions made by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segtune.dataset.coco import read_split
from segtune.dataset.detections import Detection
from segtune.evaluate import main
from tests.predictions import perfect, results_text

Predictions = str | Sequence[Detection]  # or the text of a file


def run(coco: Path, settings: dict[str, Any], **files: Predictions) -> dict[str, Any]:
    """Evaluate, with predictions as options by their names; the metrics."""
    folder = coco.parent
    command = [f"--coco={coco / 'test.json'}", f"--out={folder / 'evaluate'}"]
    command.append(f"--settings={json.dumps(settings)}")
    if any(name.endswith("valid") for name in files):
        command.append(f"--valid={coco / 'valid.json'}")
    for name, predictions in files.items():
        path = folder / f"{name}.json"
        path.write_text(predictions if isinstance(predictions, str) else results_text(predictions))
        command.append(f"--{name.replace('_', '-')}={path}")
    main(command)
    metrics: dict[str, Any] = json.loads((folder / "evaluate" / "metrics.json").read_text())
    return metrics


def evaluate(coco: Path, base: Predictions, tuned: Predictions, **settings: Any) -> dict[str, Any]:
    """Evaluate on the test split; the metrics."""
    return run(coco, settings, base=base, tuned=tuned)


def evaluate_with_more(coco: Path, **files: Predictions) -> dict[str, Any]:
    """Also on the valid split, or with out-of-distribution prompts."""
    return run(coco, {}, **{"base": [], "tuned": perfect(coco), **files})


def empty_image(coco: Path) -> int:
    """The id of an image of the test split without objects."""
    split = read_split(coco / "test.json")
    return next(image.id for image in split.images if not split.annotations[image.id])
