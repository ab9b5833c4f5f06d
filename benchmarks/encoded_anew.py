"""By how much the colors of an image differ once it is encoded anew, and those of other images.

`python -m benchmarks.encoded_anew data/demo …` prints, over the images below folders, the largest
difference that `segtune.runs` would see between an image and a JPEG of it of several qualities,
and when it was resized with another filter; and the smallest one between two images.
"""

import argparse
import io
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from PIL import Image as PilImage

from segtune.dataset.encoded_anew import MAX_DIFFERENCE, difference, mean_colors
from segtune.dataset.image_names import image_names
from segtune.dataset.images import upright_rgb

QUALITIES = (95, 85, 75, 60, 40)
SIDE = 320  # pixels, for what needs one size


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=60, help="of each folder")
    arguments = parser.parse_args(argv)
    images = [
        upright_rgb(folder / name)
        for folder in arguments.folders
        for name in sorted(image_names(folder, setting="folders"))[: arguments.images]
    ]
    print(f"{len(images)} images; the same are {MAX_DIFFERENCE} apart at most")
    for quality in QUALITIES:
        largest = max(apart(image, encoded(image, quality)) for image in images)
        print(f"JPEG of quality {quality}: {largest}")
    largest = max(apart(resized(image, "BILINEAR"), resized(image, "LANCZOS")) for image in images)
    print(f"another filter: {largest}")
    small = [resized(image, "BILINEAR") for image in images]
    print(f"other images: {min(apart(*pair) for pair in combinations(small, 2))}")


def encoded(image: PilImage.Image, quality: int) -> PilImage.Image:
    """The image as a JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return PilImage.open(file)


def resized(image: PilImage.Image, kind: str) -> PilImage.Image:
    """The image as a square."""
    return image.resize((SIDE, SIDE), PilImage.Resampling[kind])


def apart(one: PilImage.Image, other: PilImage.Image) -> int:
    """The largest difference of mean colors."""
    return difference(mean_colors(one), mean_colors(other))


if __name__ == "__main__":
    main()
