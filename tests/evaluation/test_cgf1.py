"""cgF1: the official evaluator as oracle, and known answers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segtune.model.sam3_package  # noqa: F401  # makes sam3 importable without its warnings
from segtune.dataset.coco import Split
from segtune.dataset.masks import segmentation_to_rle
from segtune.evaluation.cgf1 import concept_counts, concept_scores
from tests.evaluation.test_average_precision import (
    OBJECTS,
    detection,
    random_case,
    random_shapes,
    split_of,
)


def scores(split: Split, results: list[dict[str, Any]], with_masks: bool) -> dict[str, float]:
    found = concept_scores(concept_counts(split, results, with_masks).sum(0))
    return {name: float(value) for name, value in found.items()}


def official(
    tmp_path: Path, split: Split, results: list[dict[str, Any]], with_masks: bool
) -> dict[str, float]:
    """The evaluator of the package: an "image" of it is an image and a prompt."""
    from sam3.eval.cgf1_eval import CGF1Evaluator

    pairs = {(i.id, c.id): 100 * i.id + c.id for i in split.images for c in split.categories}
    sizes = {image.id: (image.height, image.width) for image in split.images}
    incomplete = {
        (a.image_id, a.category_id)
        for found in split.annotations.values()
        for a in found
        if a.iscrowd
    }
    truth = {
        "images": [
            {
                "id": n,
                "height": sizes[pair[0]][0],
                "width": sizes[pair[0]][1],
                "is_instance_exhaustive": pair not in incomplete,
            }
            for pair, n in pairs.items()
        ],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {
                "id": a.id,
                "image_id": pairs[a.image_id, a.category_id],
                "category_id": 1,
                "bbox": list(a.bbox_xywh),
                "area": a.area,
                "segmentation": segmentation_to_rle(a.segmentation or [], *sizes[a.image_id]),
                "iscrowd": 0,
                "ignore": 0,
            }
            for found in split.annotations.values()
            for a in found
            if not a.iscrowd
        ],
    }
    found = [
        {**r, "image_id": pairs[r["image_id"], r["category_id"]], "category_id": 1} for r in results
    ]
    for name, values in (("truth", truth), ("found", found)):
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    kind = "segm" if with_masks else "bbox"
    values = CGF1Evaluator(str(tmp_path / "truth.json"), kind).evaluate(
        str(tmp_path / "found.json")
    )
    official_names = {"cgF1": "cgF1", "pmF1": "positive_micro_F1", "IL_MCC": "IL_MCC"}
    return {mine: values[f"cgF1_eval_{kind}_{name}"] for mine, name in official_names.items()}


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("seed", range(1, 9))
def test_the_official_evaluator_agrees(tmp_path: Path, seed: int, with_masks: bool) -> None:
    split, results = (random_case if seed % 2 else random_shapes)(seed)
    # Some questions are to be answered with no, and mostly are.
    few = {
        image: tuple(a for a in found if (image + a.category_id) % 2)
        for image, found in split.annotations.items()
    }
    split = replace(split, annotations=few)
    results = [
        {**r, "score": 0.3 + 0.6 * r["score"]}
        for r in results
        if (r["image_id"] + r["category_id"]) % 2 or r["score"] > 0.8
    ]
    expected = official(tmp_path, split, results, with_masks)
    assert scores(split, results, with_masks) == pytest.approx(expected, abs=1e-6)
    assert expected["cgF1"] != 0.0


@pytest.mark.parametrize("with_masks", [True, False])
def test_perfect_answers_are_1_and_none_are_0(with_masks: bool) -> None:
    split = split_of(OBJECTS)
    perfect = scores(split, [detection(*o) for o in OBJECTS], with_masks)
    assert perfect == pytest.approx({"cgF1": 1, "pmF1": 1, "IL_MCC": 1}, abs=1e-3)
    assert scores(split, [], with_masks) == {"cgF1": 0, "pmF1": 0, "IL_MCC": 0}


def test_a_model_that_sees_everything_everywhere_is_worth_nothing() -> None:
    split = split_of(OBJECTS)
    everywhere = [detection(i, c, box) for i, c, box in OBJECTS]
    everywhere += [detection(3 - i, c, box) for i, c, box in OBJECTS]
    found = scores(split, everywhere, with_masks=True)
    assert found["pmF1"] == pytest.approx(1.0, abs=1e-3)
    assert found["IL_MCC"] == found["cgF1"] == 0.0


def test_what_scores_less_than_one_half_was_not_said() -> None:
    split = split_of(OBJECTS)
    unsure = [detection(*o, score=0.49) for o in OBJECTS]
    assert scores(split, unsure, with_masks=True)["pmF1"] == 0.0


def test_a_question_with_an_unknown_mask_is_left_out_of_masks_alone() -> None:
    split = split_of(OBJECTS)
    (known,) = split.annotations[1]
    unknown = replace(
        split, annotations={**split.annotations, 1: (replace(known, segmentation=None),)}
    )
    masks, boxes = (concept_counts(unknown, [], with_masks) for with_masks in (True, False))
    assert masks[:, -4:].sum() == 3  # of four questions
    assert boxes[:, -4:].sum() == 4


def test_counts_of_images_add_up() -> None:
    split, results = random_case(2)
    counts = concept_counts(split, results, with_masks=True)
    each = []
    for image in split.images:
        alone = replace(split, images=(image,))
        mine = [r for r in results if r["image_id"] == image.id]
        each.append(concept_counts(alone, mine, with_masks=True)[0])
    assert np.array_equal(counts, np.stack(each))
