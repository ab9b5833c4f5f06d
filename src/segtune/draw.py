"""Draw labels on their images: those that `segtune.predict` wrote for a folder, to look at.

Each object is drawn in the color of its class, with its name and score. An image without objects
is copied as it is. The labels may have been edited since they were written.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.core.atomic import atomic_path
from segtune.core.console import log_line, progress
from segtune.core.errors import ConfigError, exit_on_error
from segtune.dataset.labels import read_labels
from segtune.reports.drawing import drawn_labels

JPEG_QUALITY = 90


def main(argv: Sequence[str] | None = None) -> None:
    """Write one JPEG for each image."""
    parser = argparse.ArgumentParser(prog="segtune.draw", description=__doc__)
    parser.add_argument("--labels", type=Path, required=True, help="JSON file of segtune.predict")
    parser.add_argument("--images", type=Path, required=True, help="the folder of the images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the drawn images")
    parser.add_argument("--side", type=int, default=1600, help="at most, in pixels")
    arguments = parser.parse_args(argv)
    with exit_on_error("draw"):
        draw(arguments.labels, arguments.images, arguments.out, side=arguments.side)


def draw(labels: Path, images: Path, out: Path, *, side: int) -> None:
    """Draw the labels of a file on its images.

    Args:
        labels: from `segtune.predict --images`.
        images: folder that its file names are relative to.
        out: folder for the drawn images, with the same subfolders.
        side: longest side of a drawn image, in pixels; smaller images keep their size.

    Raises:
        ConfigError: when images would be overwritten, or taken for new ones the next time.
        DatasetError: when labels or an image cannot be read.
    """
    if out.resolve().is_relative_to(images.resolve()):
        raise ConfigError(f"--out {out} is in the folder of the images", fix="Choose another one")
    if side < 1:
        raise ConfigError(f"--side {side} is not a number of pixels", fix="Give 1 or more")
    split, scores = read_labels(labels, images)
    with progress("image", len(split.images)) as advance:
        for image in split.images:
            # Two images may differ only in their suffix.
            place = out / f"{image.file_name}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(place) as temporary:
                canvas = drawn_labels(split, image, scores, side=side)
                canvas.save(temporary, "JPEG", quality=JPEG_QUALITY)
            advance()
    log_line(f"{len(split.images)} images: {out}")


if __name__ == "__main__":
    main()
