"""A dataset of one class that every image shows: the model must still read its prompt."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune import convert, train, validate
from segtune.core.config import PredictSettings
from segtune.dataset.coco import Split, read_split
from segtune.dataset.detections import Detections
from segtune.evaluation.average_precision import average_precision
from segtune.lora.adapter import attach_adapter
from segtune.model.inference import Prompts, predict_images
from segtune.model.weights import load_base_model
from segtune.training.ood_negatives import ood_negatives

DEMO = Path(__file__).parent.parent / "data" / "demo"
CLASS = "urchin"
OTHER_CLASSES = ("limpet", "kelp", "cuttlebone")
NEW_NOUNS = ("bicycle", "sofa", "banana", "screwdriver", "elephant", "mailbox", "guitar")


# A training run in this process takes over its signals.
pytestmark = pytest.mark.usefixtures("signal_handlers")


@dataclass(frozen=True)
class Result:
    """Of a model that was trained on one class, on test images that show it."""

    own_ap: float  # mask AP of the class
    fired: dict[str, float]  # fraction of absent prompts that are detected, by kind
    history: list[dict[str, Any]]
    negatives: dict[str, int]


def write_one_class_export(folder: Path, train_images: int) -> Path:
    """The demo with one class, and only the images that show it."""
    for split in ("train", "valid", "test"):
        source, copy = DEMO / split, folder / split
        copy.mkdir(parents=True)
        values = json.loads((source / "_annotations.coco.json").read_text())
        values["categories"] = [c for c in values["categories"] if c["name"] == CLASS]
        (category,) = values["categories"]
        found = [a for a in values["annotations"] if a["category_id"] == category["id"]]
        showing = {a["image_id"] for a in found}
        images = [image for image in values["images"] if image["id"] in showing]
        values["images"] = images[:train_images] if split == "train" else images
        kept = {image["id"] for image in values["images"]}
        values["annotations"] = [a for a in found if a["image_id"] in kept]
        for image in values["images"]:
            shutil.copy(source / image["file_name"], copy)
        (copy / "_annotations.coco.json").write_text(json.dumps(values))
    return folder


def trained(folder: Path, train_images: int, **settings: Any) -> Result:
    """Convert, validate and train, then prompt with what the images do not show."""
    export = write_one_class_export(folder / "export", train_images)
    coco, out = folder / "coco", folder / "out"
    convert.main(["--export", str(export), "--out", str(coco)])
    validate.main(["--coco", str(coco), "--out", str(folder)])
    paths = ["--coco", str(coco), "--report", str(folder / "report.json"), "--out", str(out)]
    train.main([*paths, "--settings", json.dumps(settings)])
    recipe = json.loads((out / "adapter" / "recipe.json").read_text())
    own_ap, fired = measured(out / "adapter", read_split(coco / "test.json"))
    lines = (out / "history.jsonl").read_text().splitlines()
    return Result(own_ap, fired, [json.loads(line) for line in lines], recipe["negatives"])


def measured(adapter: Path, test: Split) -> tuple[float, dict[str, float]]:
    """Mask AP of the class, and the fraction of absent prompts with a score of at least 0.5."""
    groups = {
        "held-out nouns": ood_negatives(None, [CLASS]).held_out,
        "new nouns": NEW_NOUNS,
        "other classes": OTHER_CLASSES,
    }
    texts = dict(enumerate((text for group in groups.values() for text in group), start=100))
    shown = shown_in_demo()
    probes = {
        image.id: [
            (number, text)
            for number, text in texts.items()
            if (Path(image.file_name).name, text) not in shown
        ]
        for image in test.images
    }
    found = detected(adapter, test, probes)
    prompted = [text for prompts in probes.values() for _, text in prompts]
    fired = [texts[d.category_id] for d in found if d.category_id in texts]
    rates = {
        name: sum(text in group for text in fired) / sum(text in group for text in prompted)
        for name, group in groups.items()
    }
    own_ap = average_precision(test, found, "mask").AP
    assert own_ap is not None
    return own_ap, rates


def shown_in_demo() -> set[tuple[str, str]]:
    """The file names of the demo's test images, each with the classes that it shows."""
    values = json.loads((DEMO / "test" / "_annotations.coco.json").read_text())
    files = {image["id"]: image["file_name"] for image in values["images"]}
    names = {category["id"]: category["name"] for category in values["categories"]}
    return {(files[a["image_id"]], names[a["category_id"]]) for a in values["annotations"]}


def detected(adapter: Path, test: Split, probes: Mapping[int, Prompts]) -> Detections:
    model = load_base_model("tiny", "default")
    attach_adapter(model, adapter)
    predictions = predict_images(
        model,
        test,
        test.images,
        image_size=96,
        device=torch.device("cpu"),
        settings=PredictSettings(prompts_per_pass=32),
        probes=probes,
    )
    return Detections(found for _, in_image in predictions for found in in_image)


def require_quiet(result: Result, least_ap: float) -> None:
    print(result.own_ap, result.fired)
    assert result.own_ap > least_ap
    assert max(result.fired.values()) < 0.05


def test_a_model_of_one_class_reads_its_prompt(tmp_path: Path) -> None:
    result = trained(tmp_path, train_images=60, epochs=3, validate_every=3)
    require_quiet(result, least_ap=0.2)
    assert result.negatives == {"absent": 0, "ood": 60, "beside_objects": 60}
    rates = [r["false_alarms"]["held_out_nouns"] for r in result.history if r["kind"] == "valid"]
    assert rates[0] > 0.1  # the base model
    assert rates[-1] < 0.05


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_without_negatives_a_model_of_one_class_answers_every_prompt(tmp_path: Path) -> None:
    # The figures of docs/training.md: `pytest -s -m slow tests/test_one_class.py`.
    require_quiet(trained(tmp_path / "with", train_images=1000), least_ap=0.3)
    result = trained(tmp_path / "without", train_images=1000, ood_negatives=[])
    print(result.own_ap, result.fired)
    assert result.negatives == {"absent": 0, "ood": 0, "beside_objects": 0}
    assert min(result.fired.values()) > 0.5
    last = [r for r in result.history if r["kind"] == "valid"][-1]
    assert last["false_alarms"]["held_out_nouns"] > 0.5
