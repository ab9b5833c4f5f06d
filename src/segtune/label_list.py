"""List the images to label, in text files of a shard each.

Below `--out`, `lists/0000.txt` and so on name the images, and `lists.json` the lists. An image
stays in its list: when images are added, they fill new lists, and only these remain to be labeled.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.core.config import parse_section
from segtune.core.console import log_line
from segtune.core.errors import exit_on_error
from segtune.core.label_settings import LabelSettings
from segtune.core.publishing import exclusive
from segtune.dataset.label_lists import INDEX, update_lists


def main(argv: Sequence[str] | None = None) -> None:
    """Write the lists, and then their index."""
    parser = argparse.ArgumentParser(prog="segtune.label_list", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--out", type=Path, required=True, help="folder for the lists")
    parser.add_argument("--settings", default="{}", help="the label section, as JSON")
    arguments = parser.parse_args(argv)
    with exit_on_error("label_list"):
        settings = parse_section(LabelSettings, arguments.settings)
        with exclusive(arguments.out / INDEX):
            lists = update_lists(arguments.out, arguments.images, size=settings.images_per_shard)
        images = sum(listed.images for listed in lists)
        log_line(f"{images} images in {len(lists)} lists: {arguments.out}")


if __name__ == "__main__":
    main()
