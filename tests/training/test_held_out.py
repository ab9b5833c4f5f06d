"""False alarms on the valid split: absent classes and held-out nouns, each by itself."""

from pathlib import Path

import pytest
import torch

from segtune.core.config import PredictSettings
from segtune.dataset.coco import read_split
from segtune.model.inference import predict_images
from segtune.model.weights import load_base_model
from segtune.training.held_out import FalseAlarms, false_alarms, noun_probes, without_probes
from tests.converted import SIDE, write_converted
from tests.scenes import OBJECTS, detection, split_of

NOUNS = ("teapot", "castle", "piano")


def test_each_image_gets_the_same_few_nouns_and_all_have_their_turn() -> None:
    split = split_of(OBJECTS)
    probes = noun_probes(split, NOUNS)
    assert probes == noun_probes(split, NOUNS)
    assert probes.keys() == {image.id for image in split.images}
    assert {len({*prompts}) for prompts in probes.values()} == {2}
    ids = {number for prompts in probes.values() for number, _ in prompts}
    assert not ids & {category.id for category in split.categories}
    assert {text for prompts in probes.values() for _, text in prompts} == {*NOUNS}


def test_without_nouns_there_is_no_rate_of_theirs() -> None:
    split = split_of(OBJECTS)
    probes = noun_probes(split, ())
    assert not any(probes.values())
    alarms = false_alarms(split, [detection(*o) for o in OBJECTS], probes)
    assert alarms == FalseAlarms(absent_classes=0.0, held_out_nouns=None)
    assert alarms.to_record() == {"absent_classes": 0.0}


def test_absent_classes_and_nouns_are_counted_apart() -> None:
    split = split_of(OBJECTS)
    probes = noun_probes(split, NOUNS)
    absent = [
        (image.id, category.id)
        for image in split.images
        for category in split.categories
        if not split.ground_truth(image.id, category.id)
    ]
    box = OBJECTS[0][2]
    (image_id, category_id) = absent[0]
    shown = [detection(*o) for o in OBJECTS]
    alarm = [detection(image_id, category_id, box, score) for score in (0.5, 0.9)]
    quiet = [detection(*absent[-1], box, 0.49)]
    image = split.images[0].id
    noun = [detection(image, probes[image][0][0], box, 0.7)]
    found = [*shown, *alarm, *noun, *quiet]
    prompted = 2 * len(split.images)
    alarms = false_alarms(split, found, probes)
    assert alarms.absent_classes == pytest.approx(1 / len(absent))
    assert alarms.held_out_nouns == pytest.approx(1 / prompted)
    assert [*without_probes(split, found)] == [*shown, *alarm, *quiet]


def test_the_detections_of_classes_do_not_depend_on_probes(tmp_path: Path) -> None:
    split = read_split(write_converted(tmp_path, {"valid": 3}) / "valid.json")
    model, probes = load_base_model("tiny", "default"), noun_probes(split, NOUNS)
    without, with_probes = (
        [
            found
            for _, in_image in predict_images(
                model,
                split,
                split.images,
                image_size=SIDE + SIDE // 2,
                device=torch.device("cpu"),
                settings=PredictSettings(),
                probes=chosen,
            )
            for found in in_image
        ]
        for chosen in (None, probes)
    )
    assert [*without_probes(split, with_probes)] == without
    alarms = [found for found in with_probes if found not in without]
    assert all(found.score >= 0.5 for found in alarms)
    pairs = [(found.image_id, found.category_id) for found in alarms]
    assert len(pairs) == len({*pairs})
    assert {*pairs} <= {(i, number) for i, prompts in probes.items() for number, _ in prompts}
