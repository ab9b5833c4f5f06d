"""The probe: phrasings are ranked as an evaluation with each of them would rank them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.checks.phrasings import phrasings_of, sampled
from segtune.core.config import PredictSettings
from segtune.dataset.coco import Split, read_split
from segtune.dataset.detections import Detections
from segtune.evaluation.average_precision import average_precision_per_class
from segtune.model.inference import predict_images
from segtune.model.weights import load_base_model
from segtune.probe import main
from tests.converted import write_converted

FURTHER = {"disc": ["circle", "green circle"]}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_converted(tmp_path_factory.mktemp("converted"), {"train": 30}, masks=False)


def probe(coco: Path, out: Path, *more: str, **settings: Any) -> dict[str, Any]:
    given = ["--coco", str(coco / "train.json"), "--out", str(out)]
    main([*given, "--settings", json.dumps(settings), *more])
    found: dict[str, Any] = json.loads((out / "phrasings.json").read_text())
    return found


def refused(
    coco: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str, **settings: Any
) -> str:
    with pytest.raises(SystemExit, match="1"):
        probe(coco, out, *more, **settings)
    assert not out.exists()
    return capsys.readouterr().err


def evaluated(split: Split, prompts: Mapping[str, str]) -> dict[str, float | None]:
    """AP per class with other prompts, with the masks and all that the probe leaves out."""
    categories = tuple(replace(c, prompt=prompts.get(c.name, c.prompt)) for c in split.categories)
    split = replace(split, categories=categories)
    found = predict_images(
        load_base_model("tiny", "default"),
        split,
        split.images,
        image_size=96,
        device=torch.device("cpu"),
        settings=PredictSettings(),
    )
    return average_precision_per_class(split, Detections(d for _, all in found for d in all), "box")


def aps(found: Mapping[str, Any]) -> dict[str, float]:
    return {phrasing["prompt"]: phrasing["box_AP"] for phrasing in found["phrasings"]}


def test_phrasings_are_ranked_by_the_ap_that_each_would_have(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in coco.iterdir()}
    found = probe(coco, tmp_path / "probe", phrasings=FURTHER)
    disc = found["classes"]["disc"]
    assert set(aps(disc)) == {
        *("disc", "circle", "green circle", "discs", "a disc", "disc things"),
    }
    split = read_split(coco / "train.json")
    expected = evaluated(split, {"disc": "green circle"})["disc"]
    assert aps(disc)["green circle"] == pytest.approx(expected, abs=1e-6)
    assert list(aps(disc).values()) == sorted(aps(disc).values(), reverse=True)
    assert disc["best"] == disc["phrasings"][0]["prompt"]
    # The images are circles to the model, and "disc" says nothing to it.
    assert disc["best"] in FURTHER["disc"] and disc["difference"]["low"] > 0
    assert found["suggested_prompts"]["disc"] == disc["best"]
    # A class without objects can't be measured, and is not suggested for.
    assert found["classes"]["cross"]["objects"] == 0 and "cross" not in found["suggested_prompts"]
    printed = capsys.readouterr().out
    assert "disc, 10 objects in 10 of 30 images:" in printed and "'disc'  (present)" in printed
    assert f'not applied: convert: {{"prompts": {{"disc": "{disc["best"]}"' in printed
    assert {path: path.read_bytes() for path in coco.iterdir()} == before


def test_few_images_suggest_nothing(coco: Path, tmp_path: Path) -> None:
    found = probe(coco, tmp_path, phrasings=FURTHER, images=9)
    assert found["images"] == 9 and found["classes"]["disc"]["images"] == 3
    assert found["classes"]["disc"]["best"] != "disc"
    assert not found["suggested_prompts"]


def test_phrasings_are_put_into_the_template(coco: Path, tmp_path: Path) -> None:
    values = json.loads((coco / "train.json").read_text())
    for category in values["categories"]:
        category["prompt"] = f"green {category['prompt']}"
    other = tmp_path / "coco"
    other.mkdir()
    (other / "train.json").write_text(json.dumps(values))
    (other / "manifest.json").write_bytes((coco / "manifest.json").read_bytes())
    convert = ("--convert", json.dumps({"template": "green {name}"}))
    found = probe(other, tmp_path / "out", *convert, phrasings={"disc": ["circle"]}, images=12)
    split = read_split(coco / "train.json")
    images = sampled(split, 12)
    split = replace(split, images=tuple(images))
    expected = evaluated(split, {"disc": "green circle"})["disc"]
    assert aps(found["classes"]["disc"])["circle"] == pytest.approx(expected, abs=1e-6)


def test_settings_that_do_not_fit_are_refused(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = refused(coco, out, capsys, phrasings={"disk": ["circle"]})
    assert "probe.phrasings names ['disk'], which are not classes" in line
    line = refused(coco, out, capsys, phrasings={"disc": [" "]})
    assert "phrasings.disc.0" in line
    convert = ("--convert", json.dumps({"prompts": {"disc": "circle"}}))
    line = refused(coco, out, capsys, *convert)
    assert "the prompt 'disc' does not follow from convert.prompts" in line


def test_the_sample_takes_the_classes_in_turn_and_depends_on_names_only(coco: Path) -> None:
    split = read_split(coco / "train.json")
    chosen = [image.id for image in sampled(split, 12)]
    shown = [{a.category_id for a in split.annotations[n]} for n in chosen]
    assert [shown.count(group) for group in (set(), {1}, {2})] == [4, 4, 4]
    again = replace(split, images=tuple(reversed(split.images)))
    assert [image.id for image in sampled(again, 12)] == chosen
    assert [image.id for image in sampled(again, 6)] == chosen[:6]
    assert len(sampled(split, 1000)) == 30


@pytest.mark.parametrize(
    ("prompt", "supercategory", "expected"),
    [
        ("red blood cells", "cells", ["red blood cells", "red blood cell", "a red blood cell"]),
        ("apple", "fruit", ["apple", "apples", "an apple", "apple fruit"]),
        ("bus", "none", ["bus", "buses", "a bus"]),
        ("shark", "Sharks", ["shark", "sharks", "a shark"]),
        ("rbc", "RBC-WBC", ["rbc", "rbcs", "a rbc"]),
        ("berries", "none", ["berries", "berry", "a berry"]),
        ("Pothole", "pothole", ["Pothole", "Potholes", "a Pothole"]),
        ("word " * 29 + "word", "none", ["word " * 29 + "word", "word " * 29 + "words"]),
    ],
)
def test_a_class_is_put_into_a_few_words(
    prompt: str, supercategory: str, expected: Sequence[str]
) -> None:
    assert phrasings_of(prompt, supercategory, []) == expected
    others = [prompt.upper(), "something else"]
    assert phrasings_of(prompt, supercategory, others) == [prompt, others[1], *expected[1:]]
