"""What a finished run says of its model: the files that a prediction with it reads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def run_files(
    prompts: Mapping[str, str],
    thresholds: Sequence[float],
    image_size: int | None = None,
    mask_ap: Sequence[float | None] = (),
) -> dict[str, Any]:
    """Content of each file: of classes with their prompts, confidence thresholds and AP."""
    scores = dict(zip(prompts, mask_ap, strict=False))
    categories = enumerate(prompts.items(), start=4)
    chosen = zip(prompts, thresholds, strict=True)
    return {
        "train/adapter/recipe.json": {"model": "tiny", "image_size": image_size, "more": 1},
        "coco/test.json": {
            "categories": [{"id": n, "name": name, "prompt": p} for n, (name, p) in categories]
        },
        "evaluate/metrics.json": {
            "kind": "mask",
            "tuned": {
                "box": {"per_class": dict.fromkeys(prompts, 0.5)},
                "mask": {"per_class": dict.fromkeys(prompts) | scores},
                "calibration": {
                    "thresholds": {name: {"threshold": t, "f1": None} for name, t in chosen}
                },
            },
        },
    }


def write_run(folder: Path, files: Mapping[str, Any]) -> None:
    for name, values in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values))
