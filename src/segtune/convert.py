"""Convert a Roboflow export to one exact COCO file per split, and log every repair.

Boxes and areas are recomputed from the masks, ids start at 1, all splits share one table of
classes. Nothing is guessed: what cannot be read without loss is an error.
"""

import argparse
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from segtune.core.atomic import write_json
from segtune.core.config import ConvertSettings, parse_section
from segtune.core.console import log_line
from segtune.core.errors import exit_on_error
from segtune.core.publishing import published
from segtune.dataset.coco import MANIFEST, write_manifest, write_split
from segtune.exports.tables import Conversion, convert_export


def main(argv: Sequence[str] | None = None) -> None:
    """Write the splits, `manifest.json` and `conversion.json`: all of them or none."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("convert"):
        settings = parse_section(ConvertSettings, arguments.settings)
        with published(arguments.out) as new, _garbage_collection_paused():
            conversion = convert_export(arguments.export, arguments.out / "images", settings)
            _write(new, conversion, place=arguments.out)
        _report(conversion)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.convert", description=__doc__)
    parser.add_argument("--export", type=Path, required=True, help="Roboflow's folder or zip file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--settings", default="{}", help="the convert section, as JSON")
    return parser


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """The tables have no reference cycles; looking for some takes a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _write(folder: Path, conversion: Conversion, *, place: Path) -> None:
    """Write to `folder` what will be moved to `place`."""
    for name, split in conversion.splits.items():
        write_split(folder / f"{name}.json", split)
    write_manifest(folder / MANIFEST, conversion.manifest, place)
    write_json(folder / "conversion.json", asdict(conversion.log))


def _report(conversion: Conversion) -> None:
    log = conversion.log
    categories = conversion.splits["train"].categories
    log_line(f"export format: {log.format}; {len(categories)} classes:")
    for category in categories:
        log_line(f"  {category.name}: prompted as {category.prompt!r}")
    for name, count in log.splits.items():
        log_line(
            f"{name}: {count.images} images, {count.masks} masks, "
            f"{count.box_only_objects} box-only objects"
        )
    for repair in log.repairs:
        log_line(f"repaired ({repair.count} x): {repair.rule}")


if __name__ == "__main__":
    main()
