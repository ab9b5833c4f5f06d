"""A checkout whose run has finished, as far as Snakemake can tell from the names of its results."""

import os
from pathlib import Path

from PIL import Image as PilImage

from tests.snakemake_runs import copy_shipped

# By which Snakemake takes the stages before for finished.
RESULTS = (
    *(f"coco/{name}" for name in ("train", "valid", "test", "manifest", "conversion")),
    *("validate/report", "train/adapter/adapter_config", "train/adapter/recipe"),
    *("train/valid_base", "train/valid_best", "strength/strength", "merge/parity"),
    *(f"predict/{model}{split}" for model in ("base", "tuned") for split in ("", "_valid")),
    "evaluate/metrics",
)
OTHER_RESULTS = (
    *("train/adapter/adapter_model.safetensors", "train/history.jsonl"),
    *("merge/sam3.pt", "merge/MODEL_CARD.md", "evaluate/per_class.csv"),
)


def write_finished_checkout(folder: Path) -> None:
    """A copy of what is shipped, with results of the stages up to `evaluate`."""
    copy_shipped(folder)
    (folder / "data" / "demo").mkdir(parents=True)
    for name in (*(f"{name}.json" for name in RESULTS), *OTHER_RESULTS):
        stage, _, file = name.partition("/")
        for place in [f"{stage}/finished/{file}", name] if stage != "coco" else [name]:
            path = folder / "results" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
            os.utime(path, (0, 0))  # none is newer than what was made from it


def add_images(checkout: Path, *names: str) -> None:
    """Images below its folder `photos`."""
    for name in names:
        path = checkout / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PilImage.new("RGB", (8, 8)).save(path)
