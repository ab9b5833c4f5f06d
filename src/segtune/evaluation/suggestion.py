"""Which images to label next: uncertain ones, weak classes first, and no two alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segtune.core.typed_json import read_typed
from segtune.evaluation.arrays import Array

LOWEST_SCORE = 0.05  # detections below it raise no doubt
MIN_BITS = 0.5  # from which a detection is called uncertain
CANDIDATES = 4  # times as many images as are wanted, the most uncertain, compete
ROUNDING = 1e-5  # distance up to which two vectors are the same
MARGIN = 1e-3  # scores and thresholds are kept this far from 0 and 1
CHUNK = 1000  # images whose distances are computed at once


@dataclass(frozen=True)
class ClassState:
    """How well the model knows a class."""

    name: str
    threshold: float  # of confidence
    ap: float | None  # on the test split

    @property
    def weight(self) -> float:
        """How much a doubt about this class counts: 1 - AP."""
        return 1 - (self.ap or 0.0)


@dataclass(frozen=True)
class UncertainClass:
    """The uncertain detections of a class in an image, the most uncertain first."""

    name: str
    scores: list[float]
    uncertainty: float  # of these, weighted


@dataclass(frozen=True)
class Suggestion:
    """An image to label, and why."""

    file_name: str
    uncertainty: float  # of all detections
    uncertain: list[UncertainClass]
    nearest: str | None  # file name of the most similar training image
    distance: float | None  # from it: 1 - cosine of the feature vectors
    unlike: float | None  # fraction of all images that are nearer to a training image


@dataclass(frozen=True)
class Suggestions:
    """The contents of `suggestions.json`; the most uncertain image comes first."""

    images: int  # in the folder
    labeled: int  # left out: copies of images of the dataset
    repeated: int  # left out: copies of another image of the folder
    training_images: int
    classes: list[ClassState]
    suggestions: list[Suggestion]


def read_suggestions(path: Path) -> Suggestions:
    """Read what `segtune.suggest` wrote.

    Raises:
        DatasetError: when the file is missing or has another format.
    """
    return read_typed(path, Suggestions, fix="Run segtune.suggest again")


def uncertainty(score: float, threshold: float) -> float:
    """Bits of doubt about a detection: 1 at the confidence threshold of its class, less beyond.

    The binary entropy of sigmoid(logit(score) - logit(threshold)): a score at the threshold
    counts as a probability of 1/2.
    """
    p = 1 / (1 + math.exp(_logit(threshold) - _logit(score)))
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def _logit(score: float) -> float:
    p = min(max(score, MARGIN), 1 - MARGIN)
    return math.log(p / (1 - p))


def image_uncertainty(
    scores: Mapping[str, Sequence[float]], classes: Sequence[ClassState]
) -> float:
    """The sum over an image's detections, each weighted by how weak its class is.

    Scores below `LOWEST_SCORE` do not count.

    Args:
        scores: of the detections, by class.
        classes: all of them.
    """
    return sum(
        c.weight * uncertainty(score, c.threshold)
        for c in classes
        for score in scores[c.name]
        if score >= LOWEST_SCORE
    )


def uncertain_classes(
    scores: Mapping[str, Sequence[float]], classes: Sequence[ClassState]
) -> list[UncertainClass]:
    """The classes with uncertain detections in an image; the one that counts most is first."""
    found = []
    for c in classes:
        counted = [score for score in scores[c.name] if score >= LOWEST_SCORE]
        doubts = sorted(((uncertainty(s, c.threshold), s) for s in counted), reverse=True)
        doubtful = [(bits, score) for bits, score in doubts if bits >= MIN_BITS]
        if doubtful:
            total = c.weight * sum(bits for bits, _ in doubtful)
            found.append(UncertainClass(c.name, [score for _, score in doubtful], total))
    return sorted(found, key=lambda one: -one.uncertainty)


def choose(doubts: Array, vectors: Array, labeled: Array, *, count: int) -> list[int]:
    """Choose uncertain images that are unlike the labeled ones and each other.

    Among the `CANDIDATES` * `count` most uncertain images, repeatedly the one with the largest
    product of its uncertainty and its distance from the nearest image that is labeled or chosen:
    the greedy k-center of Sener and Savarese 2018, weighted by uncertainty.

    Args:
        doubts: (n,) uncertainty of each image.
        vectors: (n, d) of length 1, of the images.
        labeled: (m, d) of length 1, of the labeled images; m may be 0.
        count: images that are wanted.

    Returns:
        Places of the chosen images, the most uncertain first; fewer than `count` where the others
        look to the model exactly like these or like labeled images.
    """
    candidates = np.argsort(-doubts, kind="stable")[: CANDIDATES * count]
    points = vectors[candidates]
    # Where there is no doubt at all, distances decide.
    weights = doubts[candidates] + 1e-6
    apart, _ = nearest(points, labeled)
    chosen: list[int] = []
    while len(chosen) < min(count, len(candidates)):
        values = np.where(apart > ROUNDING, weights * apart, 0)
        best = int(np.argmax(values))
        if not values[best] > 0:
            break
        chosen.append(int(candidates[best]))
        apart = np.minimum(apart, nearest(points, points[best : best + 1])[0])
    return sorted(chosen, key=lambda place: (-doubts[place], place))


def nearest(vectors: Array, others: Array) -> tuple[Array, Array]:
    """Distance from, and place of, the nearest of other vectors.

    Args:
        vectors: (n, d) of length 1.
        others: (m, d) of length 1; without any, everything is at the largest distance.

    Returns:
        (n,) 1 - cosine, from 0 to 2, and (n,) places.
    """
    if not len(others):
        return np.full(len(vectors), 2.0), np.zeros(len(vectors), int)
    apart, places = np.empty(len(vectors)), np.empty(len(vectors), int)
    for start in range(0, len(vectors), CHUNK):
        part = slice(start, start + CHUNK)
        cosines = vectors[part] @ others.T
        places[part] = cosines.argmax(1)
        apart[part] = 1 - np.clip(cosines.max(1), -1, 1)
    return apart, places
