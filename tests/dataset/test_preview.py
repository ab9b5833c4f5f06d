"""Preview: which images and detections people are shown."""

from dataclasses import replace

from segtune.dataset.coco import Image
from segtune.dataset.detections import Detections
from segtune.dataset.preview import MAX_PREVIEW_IMAGES, preview_detections, preview_images
from tests.scenes import OBJECTS, detection, split_of


def test_images_are_taken_from_the_whole_split() -> None:
    split = split_of(OBJECTS, images=100)
    ids = [image.id for image in preview_images(split)]
    assert ids == [1, 15, 29, 43, 58, 72, 86, 100]
    assert len(ids) == MAX_PREVIEW_IMAGES


def test_a_small_split_is_shown_whole() -> None:
    split = split_of(OBJECTS, images=3)
    assert preview_images(split) == list(split.images)
    empty = replace(split, images=(), annotations={})
    none: list[Image] = []
    assert preview_images(empty) == none


def test_only_confident_detections_in_these_images_are_shown() -> None:
    split = split_of(OBJECTS, images=100)
    box = (10, 10, 40, 40)
    confident, unsure = detection(15, 1, box, 0.5), detection(15, 1, box, 0.49)
    elsewhere = detection(16, 1, box, 0.9)
    shown = preview_detections(split, Detections([confident, unsure, elsewhere]))
    assert list(shown) == [confident]
