"""Results folders of finished runs, without training: with predictions made by hand."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image as PilImage

from segtune import evaluate
from segtune.core.errors import DatasetError
from segtune.core.fingerprints import file_digest
from segtune.dataset.detections import Detection
from tests.clean_dataset import edit
from tests.converted import write_converted
from tests.predictions import perfect, results_text

COUNTS = {"train": 6, "valid": 3, "test": 12}
SETTINGS = {"epochs": 2, "lora": {"vision": {"rank": 8}}}


def write_data(folder: Path) -> Path:
    """A converted dataset in a results folder; its `coco`."""
    return write_converted(folder, COUNTS)


def copy_data(coco: Path, folder: Path) -> Path:
    """The same data in another results folder, to be edited; the images stay where they are."""
    shutil.copytree(coco, folder / "coco")
    return folder / "coco"


def export_again(
    coco: Path, folder: Path, change: Callable[[PilImage.Image], PilImage.Image]
) -> Path:
    """The same data with images of its own, which have other names and bytes."""
    new, entries = copy_data(coco, folder), []
    for split in COUNTS:
        values = json.loads((new / f"{split}.json").read_text())
        for image in values["images"]:
            with PilImage.open(coco.parent / image["file_name"]) as opened:
                changed = change(opened.convert("RGB"))
            image["file_name"] = name = image["file_name"].replace(".png", ".rf.0a1b2c.png")
            image["width"], image["height"] = changed.size
            (folder / name).parent.mkdir(exist_ok=True)
            changed.save(folder / name)
            content = (folder / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            entries.append({"path": name, "size": len(content), "sha256": digest})
        (new / f"{split}.json").write_text(json.dumps(values))
    (new / "manifest.json").write_text(json.dumps({"root": str(folder), "images": entries}))
    return new


def recompressed(image: PilImage.Image) -> PilImage.Image:
    """The image after it was a JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return PilImage.open(file).convert("RGB")


def move(coco: Path, numbers: Iterable[int], source: str, target: str) -> None:
    """Move images of a split with their objects to another one, under new ids."""
    for number in numbers:
        _move_one(coco, number, source, target)


def remove(coco: Path, numbers: Iterable[int], split: str) -> None:
    """Remove images of a split with their objects."""
    for number in numbers:
        edit(coco, split, lambda values, n=number: _take(values, n))


def _move_one(coco: Path, number: int, source: str, target: str) -> None:
    taken: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    edit(coco, source, lambda values: taken.append(_take(values, number)))
    image, objects = taken[0]

    def put(values: dict[str, Any]) -> None:
        new = max((i["id"] for i in values["images"]), default=0) + 1
        first = max((a["id"] for a in values["annotations"]), default=0) + 1
        values["images"].append({**image, "id": new})
        values["annotations"] += [
            {**a, "id": first + place, "image_id": new} for place, a in enumerate(objects)
        ]

    edit(coco, target, put)


def _take(values: dict[str, Any], number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (image,) = [i for i in values["images"] if i["id"] == number]
    objects = [a for a in values["annotations"] if a["image_id"] == number]
    values["images"].remove(image)
    values["annotations"] = [a for a in values["annotations"] if a["image_id"] != number]
    return image, objects


def finish(
    coco: Path, tuned: Iterable[Detection] | None = None, *, strength: float = 1.0, **settings: Any
) -> Path:
    """Everything else of a finished run; the results folder.

    Args:
        coco: its data.
        tuned: detections of the fine-tuned model on test; perfect ones by default.
        strength: by which the update was multiplied.
        settings: of training, besides `SETTINGS`.
    """
    folder = coco.parent
    found = perfect(coco) if tuned is None else tuned
    for name, text in {"base": results_text([]), "tuned": results_text(found)}.items():
        (folder / "predict").mkdir(exist_ok=True)
        (folder / "predict" / f"{name}.json").write_text(text)
    recipe = {
        "segtune": "1",
        "settings": {"select_by": "AP", **SETTINGS, **settings},
        "model": "tiny",
        "image_size": None,
        "weights": "default",
        "data": {"train.json": file_digest(coco / "train.json", DatasetError, "")},
        "code": {"segtune/train.py": str(settings)},
        "adapted": {"a.b": {"rank": 8}},
    }
    (folder / "train" / "adapter").mkdir(parents=True, exist_ok=True)
    (folder / "train" / "adapter" / "recipe.json").write_text(json.dumps(recipe))
    (folder / "merge").mkdir(exist_ok=True)
    (folder / "merge" / "parity.json").write_text(json.dumps({"strength": strength}))
    files = [f"--{name}={folder / 'predict' / name}.json" for name in ("base", "tuned")]
    options = [f"--coco={coco / 'test.json'}", f"--out={folder / 'evaluate'}"]
    evaluate.main([*options, *files, f"--settings={json.dumps({'resamples': 2})}"])
    return folder
