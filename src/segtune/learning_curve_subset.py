"""A share of the training split, for a learning curve: smaller shares lie within larger ones.

All variants of one source image stay together. The valid split and the manifest are copied.
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segtune.core.atomic import write_json, write_tables
from segtune.core.console import log_line
from segtune.core.errors import ConfigError, exit_on_error
from segtune.dataset.coco import read_json, read_split


def main(argv: Sequence[str] | None = None) -> None:
    """Write `train.json`, `valid.json` and `manifest.json`."""
    parser = argparse.ArgumentParser(prog="segtune.learning_curve_subset", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument("--share", type=float, required=True, help="of the source images, 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args(argv)
    with exit_on_error("subset"):
        if not 0 < arguments.share <= 1:
            raise ConfigError(f"--share {arguments.share} is not between 0 and 1")
        read_split(arguments.coco / "train.json")  # refuses what was not converted
        train = read_json(arguments.coco / "train.json")
        part = share_of(train, arguments.share)
        write_tables(arguments.out / "train.json", part)
        for name in ("valid.json", "manifest.json"):
            write_json(arguments.out / name, read_json(arguments.coco / name))
        log_line(f"{len(part['images'])} of {len(train['images'])} images: {arguments.out}")


def share_of(dataset: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The images of a share of the sources, at least one, with what is on them.

    Which sources come first depends on their names alone.
    """
    sources = {image["id"]: _source(image) for image in dataset["images"]}
    ordered = sorted(set(sources.values()), key=lambda n: hashlib.sha256(n.encode()).digest())
    chosen = set(ordered[: max(1, round(share * len(ordered)))])
    images = [image for image in dataset["images"] if sources[image["id"]] in chosen]
    kept = {image["id"] for image in images}
    annotations = [a for a in dataset["annotations"] if a["image_id"] in kept]
    return {**dataset, "images": images, "annotations": annotations}


def _source(image: Mapping[str, Any]) -> str:
    return str(image.get("source_name") or image["file_name"])


if __name__ == "__main__":
    main()
