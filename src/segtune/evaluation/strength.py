"""What a model has learned, and what it retains of the base model; see `strength_curve`.

What is retained needs no labels: on images unlike the new data, it is the average precision of the
detections of prompts that the base model knows, with its own detections taken for the ground truth.
The IoU is 0.5, because it matters that an object is still detected: the base model's outline is no
more right than another one.
"""

from dataclasses import replace

from segtune.dataset.coco import Annotation, Split, has_masks
from segtune.dataset.detections import Detections
from segtune.dataset.masks import rle_area
from segtune.evaluation.average_precision import score_detections
from segtune.evaluation.bootstrap import estimated_precision, estimated_statistic
from segtune.evaluation.cgf1 import concept_counts, concept_values
from segtune.evaluation.strength_curve import Estimate

BASE_SCORE = 0.5  # confidence threshold of the base model's detections that are to be retained


def detected_as_truth(split: Split, base: Detections) -> Split:
    """The base model's detections of a split's categories as its ground truth.

    Args:
        split: images and categories.
        base: detections, of which those with a score of at least `BASE_SCORE` count.
    """
    objects: dict[int, list[Annotation]] = {image.id: [] for image in split.images}
    confident = (found for found in base if found.score >= BASE_SCORE)
    for number, found in enumerate(confident, start=1):
        objects[found.image_id].append(
            Annotation(
                id=number,
                image_id=found.image_id,
                category_id=found.category_id,
                bbox_xywh=found.bbox_xywh,
                area=float(rle_area(found.rle)),
                segmentation=found.rle,
                iscrowd=0,
            )
        )
    return replace(split, annotations={key: tuple(found) for key, found in objects.items()})


def estimated_score(
    split: Split, detections: Detections, *, cgf1: bool, resamples: int
) -> Estimate:
    """AP or cgF1 of a model, of masks where the split has some, with its 95% interval.

    Args:
        split: the ground truth.
        detections: of its categories.
        cgf1: the score is cgF1.
        resamples: of the images, behind the interval.
    """
    with_masks = has_masks(split)
    if cgf1:
        counts = concept_counts(split, detections, with_masks)
        return estimated_statistic(counts, lambda sums: concept_values(sums)["cgf1"], resamples)
    scored = score_detections(split, detections, "mask" if with_masks else "box")
    return estimated_precision(scored.matches, resamples)


def estimated_retention(truth: Split, detections: Detections, *, resamples: int) -> Estimate:
    """AP at an IoU of 0.5 against the base model's detections, with its 95% interval.

    Args:
        truth: from `detected_as_truth`.
        detections: of the same images and categories.
        resamples: of the images, behind the interval.
    """
    if not truth.categories:
        return Estimate(None, None, None)
    lowest = slice(0, 1)  # of the IoU thresholds, which begin with 0.5
    matches = score_detections(truth, detections, "mask").matches
    at_lowest = [
        replace(found, matched=found.matched[lowest], counted=found.counted[lowest])
        for found in matches
    ]
    return estimated_precision(at_lowest, resamples)
