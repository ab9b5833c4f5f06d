"""Images of a folder that a dataset has already, and those that the folder has twice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from segtune.core.console import progress
from segtune.core.cores import usable_cores
from segtune.dataset.coco import Manifest, Split
from segtune.dataset.image_copies import (
    MIN_SIMILARITY,
    ComparedSplit,
    compared_splits,
    copies_across,
    copies_within,
)
from segtune.dataset.image_scan import scan_images

DATASET, FOLDER = "dataset", "folder"


@dataclass(frozen=True)
class KnownImages:
    """File names of images in a folder of which nothing new can be learned."""

    labeled: frozenset[str]  # copies of images of the dataset, in any split
    repeated: frozenset[str]  # others, which are copies of an earlier image of the folder


def known_images(photos: Split, dataset: Sequence[Split]) -> KnownImages:
    """Find the images of a folder that are in a dataset, or repeat each other.

    Copies are those that `convert: {copies: move_to_train}` moves: of the same bytes, or
    recompressed, resized, brightened, mirrored or rotated.

    Args:
        photos: the images of the folder.
        dataset: splits of a dataset; images of theirs that cannot be read have no copies.
    """
    parts = [replace(photos, name=FOLDER), *(replace(split, name=DATASET) for split in dataset)]
    nothing = Manifest(photos.root, ())  # the scan is not compared with the time of conversion
    with progress("compared image", sum(len(part.images) for part in parts)) as advance:
        scans = list(scan_images(parts, nothing, workers=usable_cores(), advance=advance))
    folder, *others = compared_splits(scans, MIN_SIMILARITY)
    labeled = frozenset(name for other in others for name in _copies(folder, other))
    repeated = {copy.image.file_name for copy in copies_within(folder, MIN_SIMILARITY)}
    return KnownImages(labeled, frozenset(repeated - labeled))


def _copies(folder: ComparedSplit, dataset: ComparedSplit) -> set[str]:
    found, _ = copies_across(
        folder,
        dataset,
        min_near=MIN_SIMILARITY,
        min_likely=MIN_SIMILARITY,
        min_possible=MIN_SIMILARITY,
    )
    return {copy.image.file_name for copy in found if copy.kind in ("identical", "near")}
