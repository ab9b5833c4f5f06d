"""Intervals: pycocotools on resampled images as oracle, and known answers."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from segtune.dataset.coco import Annotation, Image, Split
from segtune.dataset.detections import Detection, Detections
from segtune.evaluation.assessment import match_detections
from segtune.evaluation.average_precision import Kind, average_precision
from segtune.evaluation.bootstrap import paired_differences, precisions, resample_counts
from segtune.evaluation.matching import ClassMatches
from tests.scenes import KINDS, detection, random_case, random_shapes, split_of


def resampled(split: Split, detections: Detections, counts: list[int]) -> tuple[Split, Detections]:
    """The split with each image as often as it was drawn."""
    images: list[Image] = []
    annotations: dict[int, tuple[Annotation, ...]] = {}
    found: list[Detection] = []
    for image, count in zip(split.images, counts, strict=True):
        for _ in range(count):
            number = len(images) + 1
            images.append(replace(image, id=number))
            annotations[number] = tuple(
                replace(a, id=1000 * number + k, image_id=number)
                for k, a in enumerate(split.annotations[image.id])
            )
            found += [replace(d, image_id=number) for d in detections.in_image(image.id)]
    return replace(split, images=tuple(images), annotations=annotations), Detections(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [random_case, random_shapes])
@pytest.mark.parametrize("seed", range(3))
def test_a_resample_scores_what_pycocotools_gives_its_images(
    seed: int, case: Callable[[int], tuple[Split, Detections]], kind: Kind
) -> None:
    split, detections = case(seed)
    count = len(split.images)
    draws = np.concatenate([np.ones((1, count), int), resample_counts(count, 6)])
    found = precisions(match_detections(split, detections, kind), draws)
    for draw, values in zip(draws, found, strict=True):
        drawn = average_precision(*resampled(split, detections, draw.tolist()), kind)
        expected = [np.nan if v is None else v for v in drawn.per_class.values()]
        assert values == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_every_resample_has_as_many_images_as_the_split() -> None:
    draws = resample_counts(7, 50)
    assert draws.shape == (50, 7)
    assert (draws.sum(1) == 7).all()
    assert len(np.unique(draws, axis=0)) > 40
    assert np.array_equal(draws, resample_counts(7, 50))


def moved_right(found: Detection, pixels: int) -> Detection:
    x, y, w, h = found.bbox_xywh
    return replace(found, bbox_xywh=(x + pixels, y, w, h))


def test_swapping_the_models_negates_the_interval() -> None:
    split, better = random_case(0)
    worse = Detections(moved_right(found, 4) for found in better)
    one, two = (match_detections(split, d, "box") for d in (worse, better))
    there, there_per_class = paired_differences(one, two, 200)
    back, back_per_class = paired_differences(two, one, 200)
    assert there.difference and there.low is not None and there.high is not None
    assert there.low < there.difference < there.high
    pairs = zip([there, *there_per_class], [back, *back_per_class], strict=True)
    for a, b in pairs:
        assert (a.difference, a.low, a.high) == pytest.approx(
            tuple(-v for v in (b.difference, b.high, b.low) if v is not None)
        )


def test_equal_models_do_not_differ() -> None:
    split, detections = random_case(1)
    matches = match_detections(split, detections, "mask")
    overall, _ = paired_differences(matches, matches, 100)
    assert (overall.difference, overall.low, overall.high) == (0, 0, 0)


def test_a_class_without_objects_has_no_interval() -> None:
    split = split_of([(1, 1, (10, 10, 40, 40)), (2, 1, (10, 10, 40, 40))])
    found = match_detections(split, Detections([detection(1, 1, (10, 10, 40, 40))]), "box")
    none = match_detections(split, Detections(), "box")
    overall, (cat, dog) = paired_differences(none, found, 200)
    assert overall == cat
    assert cat.difference == pytest.approx(0.5, abs=0.01)
    assert (cat.low, cat.high) == pytest.approx((0, 1))
    assert dog.difference is None and dog.low is None and dog.high is None
    nothing, _ = paired_differences(none[1:], found[1:], 200)
    assert nothing.difference is None


def simulated(
    rng: np.random.Generator, images: int, skills: tuple[float, float]
) -> list[ClassMatches]:
    """Two models on the same images, which are equally easy or hard for both."""
    hardness = rng.normal(0, 0.7, (images, 1))
    models = []
    for skill in skills:
        quality = rng.normal(skill, 1, (images, 2)) - hardness  # of two objects each
        found = quality.ravel() > np.linspace(0, 1.5, 10)[:, None]
        stray = np.flatnonzero(rng.random(images) < 0.3)
        scores = np.concatenate(
            [(quality + rng.normal(0, 1, quality.shape)).ravel(), rng.normal(-0.5, 1, len(stray))]
        )
        order = np.argsort(-scores)
        all_found = np.concatenate([found, np.zeros((10, len(stray)), bool)], axis=1)
        models.append(
            ClassMatches(
                score=scores[order],
                image=np.concatenate([np.repeat(np.arange(images), 2), stray])[order],
                matched=all_found[:, order],
                counted=np.ones_like(all_found),
                objects=np.full(images, 2),
            )
        )
    return models


def test_the_intervals_cover_a_known_difference() -> None:
    skills, many = (0.3, 0.6), 100_000
    base, tuned = simulated(np.random.default_rng(0), many, skills)
    everything = np.ones((1, many), int)
    truth = (precisions([tuned], everything) - precisions([base], everything)).item()
    covered = 0
    for repeat in range(500):
        base, tuned = simulated(np.random.default_rng([1, repeat]), 100, skills)
        overall, _ = paired_differences([base], [tuned], 200)
        assert overall.low is not None and overall.high is not None
        covered += overall.low <= truth <= overall.high
    assert 0.93 <= covered / 500 <= 0.97
