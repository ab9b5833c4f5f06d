"""Images that one run learned from and another one is tested on."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from segtune.dataset.image_pairs import Dataset

Learned = Literal["train", "valid"]


@dataclass(frozen=True)
class Leak:
    """Test images of a run that are in a split that a run learned from."""

    learned: str  # name of the run
    split: Learned  # valid: its epoch and its thresholds were chosen there
    tested: str  # name of the run
    images: tuple[str, ...]  # by file name, in the run that is tested


def find_leaks(runs: Mapping[str, Dataset]) -> tuple[Leak, ...]:
    """Every leak between runs, and within one from train to test; those of train first.

    Within a run, `valid` may stand in for a missing test split, which its evaluation says.
    """
    splits: tuple[Learned, ...] = ("train", "valid")
    leaks = []
    for split, (learned, trained_on), (tested, data) in product(splits, runs.items(), runs.items()):
        if split == "valid" and learned == tested:
            continue
        known = trained_on.identities_of(split)
        images = tuple(
            image.file_name for image in data.splits["test"].images if data.identity(image) in known
        )
        if images:
            leaks.append(Leak(learned, split, tested, images))
    return tuple(leaks)
