"""A few images of a split, with what a model detects in them, for people to look at."""

import numpy as np

from segtune.dataset.coco import Image, Split
from segtune.dataset.detections import Detections

MAX_PREVIEW_IMAGES = 8
MIN_PREVIEW_SCORE = 0.5  # of detections


def preview_images(split: Split) -> list[Image]:
    """At most eight images from the first to the last, the same every time."""
    count = min(MAX_PREVIEW_IMAGES, len(split.images))
    places = np.linspace(0, len(split.images) - 1, count).round().astype(int)
    return [split.images[place] for place in places]


def preview_detections(split: Split, detections: Detections) -> Detections:
    """The confident detections in the preview images."""
    shown = {image.id for image in preview_images(split)}
    return Detections(d for d in detections if d.image_id in shown and d.score >= MIN_PREVIEW_SCORE)
