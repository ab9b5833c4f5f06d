"""cgF1: the official evaluator as oracle, and known answers."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import segtune.model.sam3_package  # noqa: F401  # makes sam3 importable without its warnings
from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.detections import Detections, to_record
from segtune.dataset.masks import segmentation_to_rle
from segtune.evaluation.cgf1 import ConceptScores, concept_counts, concept_scores
from tests.scenes import OBJECTS, detection, random_case, random_shapes, split_of

PERFECT = [detection(*o) for o in OBJECTS]


def scores(split: Split, detections: Detections, with_masks: bool) -> ConceptScores:
    return concept_scores(concept_counts(split, detections, with_masks))


def queries_of(split: Split) -> dict[tuple[int, int], int]:
    """The id of each image and prompt, which are one "image" of the official evaluator."""
    return {(i.id, c.id): 100 * i.id + c.id for i in split.images for c in split.categories}


def query_record(number: int, image: Image, exhaustive: bool) -> dict[str, object]:
    return {
        "id": number,
        "height": image.height,
        "width": image.width,
        "is_instance_exhaustive": exhaustive,
    }


def object_record(a: Annotation, query: int, image: Image) -> dict[str, object]:
    return {
        "id": a.id,
        "image_id": query,
        "category_id": 1,
        "bbox": list(a.bbox_xywh),
        "area": a.area,
        "segmentation": segmentation_to_rle(a.segmentation or [], image.height, image.width),
        "iscrowd": 0,
        "ignore": 0,
    }


def write_queries(folder: Path, split: Split, detections: Detections) -> None:
    queries = queries_of(split)
    images = {image.id: image for image in split.images}
    crowds = {(a.image_id, a.category_id) for a in split.objects if a.iscrowd}
    truth = {
        "images": [query_record(n, images[q[0]], q not in crowds) for q, n in queries.items()],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            object_record(a, queries[a.image_id, a.category_id], images[a.image_id])
            for a in split.objects
            if not a.iscrowd
        ],
    }
    found = [
        {**to_record(d), "image_id": queries[d.image_id, d.category_id], "category_id": 1}
        for d in detections
    ]
    for name, values in (("truth", truth), ("found", found)):
        (folder / f"{name}.json").write_text(json.dumps(values))


def official(tmp_path: Path, split: Split, detections: Detections, kind: str) -> ConceptScores:
    """The scores by the evaluator of the package."""
    from sam3.eval.cgf1_eval import CGF1Evaluator

    write_queries(tmp_path, split, detections)
    evaluator = CGF1Evaluator(str(tmp_path / "truth.json"), kind)
    values = evaluator.evaluate(str(tmp_path / "found.json"))
    return ConceptScores(
        cgf1=values[f"cgF1_eval_{kind}_cgF1"],
        pmf1=values[f"cgF1_eval_{kind}_positive_micro_F1"],
        il_mcc=values[f"cgF1_eval_{kind}_IL_MCC"],
    )


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("seed", range(1, 9))
def test_the_official_evaluator_agrees(tmp_path: Path, seed: int, with_masks: bool) -> None:
    split, detections = (random_case if seed % 2 else random_shapes)(seed)
    # Some queries are negatives, and mostly predicted as such.
    few = {
        image: tuple(a for a in found if (image + a.category_id) % 2)
        for image, found in split.annotations.items()
    }
    split = replace(split, annotations=few)
    detections = Detections(
        replace(d, score=0.3 + 0.6 * d.score)
        for d in detections
        if (d.image_id + d.category_id) % 2 or d.score > 0.8
    )
    expected = official(tmp_path, split, detections, "segm" if with_masks else "bbox")
    found = scores(split, detections, with_masks)
    assert asdict(found) == pytest.approx(asdict(expected), abs=1e-6)
    assert expected.cgf1 != 0.0


@pytest.mark.parametrize("with_masks", [True, False])
def test_perfect_predictions_are_1_and_none_are_0(with_masks: bool) -> None:
    split = split_of(OBJECTS)
    perfect = scores(split, Detections(PERFECT), with_masks)
    assert asdict(perfect) == pytest.approx({"cgf1": 1, "pmf1": 1, "il_mcc": 1}, abs=1e-3)
    assert scores(split, Detections(), with_masks) == ConceptScores(cgf1=0, pmf1=0, il_mcc=0)


def test_a_model_that_detects_everything_everywhere_has_a_cgf1_of_0() -> None:
    split = split_of(OBJECTS)
    elsewhere = [replace(d, image_id=3 - d.image_id) for d in PERFECT]
    found = scores(split, Detections(PERFECT + elsewhere), with_masks=True)
    assert found.pmf1 == pytest.approx(1.0, abs=1e-3)
    assert found.il_mcc == found.cgf1 == 0.0


def test_a_score_below_one_half_does_not_count() -> None:
    split = split_of(OBJECTS)
    unsure = Detections(replace(d, score=0.49) for d in PERFECT)
    assert scores(split, unsure, with_masks=True).pmf1 == 0.0


def test_a_query_with_an_unknown_mask_is_only_left_out_with_masks() -> None:
    split = split_of(OBJECTS)
    (known,) = split.annotations[1]
    unknown = replace(
        split, annotations={**split.annotations, 1: (replace(known, segmentation=None),)}
    )
    masks, boxes = (
        concept_counts(unknown, Detections(), with_masks) for with_masks in (True, False)
    )
    assert masks[:, -4:].sum() == 3  # of four queries
    assert boxes[:, -4:].sum() == 4


def test_the_counts_of_an_image_do_not_depend_on_other_images() -> None:
    split, detections = random_case(2)
    counts = concept_counts(split, detections, with_masks=True)
    each = []
    for image in split.images:
        only = replace(split, images=(image,))
        mine = Detections(detections.in_image(image.id))
        each.append(concept_counts(only, mine, with_masks=True)[0])
    assert np.array_equal(counts, np.stack(each))
