"""What a finished training run leaves, written by hand."""

import json
from pathlib import Path
from typing import Any

from segtune.dataset.coco import read_split
from tests.predictions import detected, results_text

RESULT = {"best_score": 0.5, "base_score": 0.1, "best_epoch": 2, "seconds": 120.0}
NEGATIVES = {"absent": 1234, "ood": 56, "beside_objects": 1200}
STEP = {
    "kind": "train",
    "images_per_second": 2.0,
    "data_wait_fraction": 0.25,
    "peak_memory_gb": 3.0,
}


def write_training_run(folder: Path, coco: Path, name: str) -> Path:
    """A run of four steps and two epochs; its best checkpoint detects every valid object.

    Args:
        folder: to write.
        coco: the converted dataset.
        name: of a class.
    """
    recipe = {
        "segtune": "0",
        "settings": {"epochs": 2, "select_by": "AP", "note": "<script>"},
        "result": RESULT,
        "parameters": {"vision": {"trainable": 10, "total": 1000}},
        "negatives": NEGATIVES,
    }
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "recipe.json").write_text(json.dumps(recipe))
    records: list[dict[str, Any]] = []
    for epoch in (0, 2):
        scores = {"mask_AP": 0.1 + 0.2 * epoch, "per_class": {name: 0.25}}
        alarms = {"absent_classes": 0.5 - 0.2 * epoch, "held_out_nouns": 0.25}
        record = {"step": epoch, "epoch": epoch, **scores, "false_alarms": alarms}
        records.append({"kind": "valid", **record})
    records += [{**STEP, "step": number, "loss": 8.0 - number} for number in range(4)]
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, records)))
    objects = read_split(coco / "valid.json").objects
    (folder / "valid_base.json").write_text(results_text([]))
    (folder / "valid_best.json").write_text(results_text([detected(a) for a in objects]))
    return folder
