"""Which detections met an object: what every score of a class follows from."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ClassMatches:
    """One class's detections over all pictures, best score first.

    `found` and `counted` hold, per IoU threshold, whether a detection has met an object and
    whether it counts at all (what meets a crowd does not).
    """

    score: Array  # (N,)
    picture: Array  # (N,) position of the picture
    found: Array  # (T, N) bool
    counted: Array  # (T, N) bool
    objects: Array  # (pictures,) objects to find
