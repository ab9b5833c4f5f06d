"""A converted dataset with one label error of each kind in train, and a model that knows better."""

import json
from pathlib import Path
from typing import Any

from segtune.dataset.coco import Annotation, read_split
from segtune.label_issues import main
from tests.converted import write_converted, write_report
from tests.predictions import detected, results_text

# Images of train: without its label, with another class, with a third of the square, and with a
# label of nothing.
MISSING, WRONG, POOR, NOTHING = 1, 2, 4, 3
PHANTOM_ID = 900


def write_dataset_with_errors(folder: Path) -> Path:
    """Write the dataset, and predictions of a perfect model; return the folder of the splits."""
    coco = write_converted(folder, {"train": 9, "valid": 9, "test": 6})
    for split in ("train", "valid", "test"):
        objects = read_split(coco / f"{split}.json").objects
        (folder / f"{split}.json").write_text(results_text(map(detected, objects)))
    plant_errors(coco / "train.json")
    write_report(coco)
    return coco


def plant_errors(path: Path) -> None:
    values = json.loads(path.read_text())
    labels = {a["image_id"]: a for a in values["annotations"]}
    labels[WRONG]["category_id"] = 1
    x, y, w, h = labels[POOR]["bbox"]
    third = [x, y, x + w, y, x + w, y + h / 3, x, y + h / 3]
    labels[POOR] |= {"bbox": [x, y, w, h / 3], "segmentation": [third], "area": w * h / 3}
    phantom = {**labels[7], "id": PHANTOM_ID, "image_id": NOTHING}
    kept = [a for a in values["annotations"] if a["image_id"] != MISSING]
    path.write_text(json.dumps({**values, "annotations": [*kept, phantom]}))


def arguments(coco: Path, out: Path, **settings: Any) -> list[str]:
    """Of the command."""
    predictions = [f"--{split}={coco.parent / split}.json" for split in ("train", "valid", "test")]
    options = [f"--coco={coco}", f"--out={out}", f"--settings={json.dumps(settings)}"]
    return [*predictions, *options]


def find_issues(coco: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """Run the command; the content of `issues.json`."""
    main(arguments(coco, out, **settings))
    values: dict[str, Any] = json.loads((out / "issues.json").read_text())
    return values


def patch(out: Path, split: str) -> dict[str, Any]:
    """The corrected labels of a split."""
    path = out / "patch" / split / "_annotations.coco.json"
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def labels_of(coco: Path, image: int) -> tuple[Annotation, ...]:
    """The labels of an image of train."""
    return read_split(coco / "train.json").annotations[image]
