"""Take a fraction of the training split; smaller fractions lie within larger ones.

All augmented copies of one original image, and all of its tiles, stay together. The valid split,
the manifest and what says that the images are tiles are copied.
"""

import argparse
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segtune.core.atomic import atomic_path
from segtune.core.console import log_line
from segtune.core.errors import ConfigError, exit_on_error
from segtune.dataset.coco import (
    MANIFEST,
    Image,
    Split,
    read_manifest,
    read_split,
    write_manifest,
    write_split,
)
from segtune.dataset.tiles import TILES


def main(argv: Sequence[str] | None = None) -> None:
    """Write `train.json`, `valid.json` and `manifest.json`."""
    arguments = _parser().parse_args(argv)
    coco, out = arguments.coco, arguments.out
    with exit_on_error("learning_curve_subset"):
        if not 0 < arguments.fraction <= 1:
            raise ConfigError(f"--fraction {arguments.fraction} is not between 0 and 1")
        train, valid = (read_split(coco / f"{name}.json") for name in ("train", "valid"))
        part = subset(train, arguments.fraction)
        write_split(out / "train.json", part)
        write_split(out / "valid.json", valid)
        _copy_tiles(coco / TILES, out / TILES)
        # Last, because the folder is a dataset once it has a manifest.
        write_manifest(out / MANIFEST, read_manifest(coco), out)
        log_line(f"{len(part.images)} of {len(train.images)} images: {out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.learning_curve_subset", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument(
        "--fraction", type=float, required=True, help="of the original images, 0 to 1"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the subset")
    return parser


def _copy_tiles(source: Path, out: Path) -> None:
    """What tiles a dataset consists of, where it does: training reads it beside the splits."""
    if source.exists():
        with atomic_path(out) as temporary:
            shutil.copyfile(source, temporary)
    else:
        out.unlink(missing_ok=True)


def subset(split: Split, fraction: float) -> Split:
    """The images of a fraction of the originals, at least one original, with their objects.

    Which originals come first depends only on their names.
    """
    originals = {image.id: _original(image) for image in split.images}
    ordered = sorted(set(originals.values()), key=lambda n: hashlib.sha256(n.encode()).digest())
    chosen = set(ordered[: max(1, round(fraction * len(ordered)))])
    images = tuple(image for image in split.images if originals[image.id] in chosen)
    return replace(
        split,
        images=images,
        annotations={image.id: split.annotations[image.id] for image in images},
    )


def _original(image: Image) -> str:
    return image.original or image.file_name


if __name__ == "__main__":
    main()
