"""Gather the labels of shards in one COCO dataset, as if all images had been labeled at once.

The shards follow each other as their lists do, and images and objects are numbered anew. One
record at a time is in memory.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segtune.core.atomic import write_tables
from segtune.core.console import log_line
from segtune.core.errors import DatasetError, exit_on_error
from segtune.core.publishing import exclusive
from segtune.core.tables import read_table
from segtune.dataset.label_lists import ImageList, read_index

FIX = "Delete the file and run the workflow again"


def main(argv: Sequence[str] | None = None) -> None:
    """Write the dataset, atomically."""
    parser = argparse.ArgumentParser(prog="segtune.label_gather", description=__doc__)
    parser.add_argument("--lists", type=Path, required=True, help="lists.json of label_list")
    parser.add_argument("--shards", type=Path, required=True, help="folder with their labels")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    with exit_on_error("label_gather"), exclusive(arguments.out):
        lists = read_index(arguments.lists)
        gather(lists, arguments.shards, arguments.out)
        images = sum(listed.images for listed in lists)
        log_line(f"{images} images of {len(lists)} shards: {arguments.out}")


def gather(lists: Sequence[ImageList], shards: Path, out: Path) -> None:
    """Write the labels of all shards as one COCO dataset, atomically.

    Args:
        lists: of the images, in order.
        shards: folder with the labels of each list, under its name.
        out: the JSON file to write.

    Raises:
        DatasetError: when labels cannot be read, or are of other images or classes.
    """
    if not lists:
        raise DatasetError("no lists of images", file=shards, fix="Run segtune.label_list again")
    paths = [shards / f"{listed.name}.json" for listed in lists]
    counts = [listed.images for listed in lists]
    write_tables(
        out,
        {
            "images": _images(paths, counts),
            "categories": _categories(paths),
            "annotations": _annotations(paths, counts),
        },
    )


def _images(paths: Sequence[Path], counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    before = 0
    for path, count in zip(paths, counts, strict=True):
        number = 0
        for number, record in enumerate(read_table(path, "images", FIX), start=1):
            if not isinstance(record, dict) or record.get("id") != number:
                problem = f"image {number} has another id"
                raise DatasetError(problem, file=path, fix=FIX)
            yield {**record, "id": before + number}
        if number != count:
            raise DatasetError(f"{number} images, of {count} in its list", file=path, fix=FIX)
        before += count


def _categories(paths: Sequence[Path]) -> Iterator[Any]:
    first = [*read_table(paths[0], "categories", FIX)]
    for path in paths[1:]:
        if [*read_table(path, "categories", FIX)] != first:
            raise DatasetError(f"other classes than in {paths[0]}", file=path, fix=FIX)
    yield from first


def _annotations(paths: Sequence[Path], counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    number, before = 0, 0
    for path, count in zip(paths, counts, strict=True):
        for record in read_table(path, "annotations", FIX):
            image = record.get("image_id") if isinstance(record, dict) else None
            if type(image) is not int or not 1 <= image <= count:
                problem = f"an object in image {image}, of {count}"
                raise DatasetError(problem, file=path, fix=FIX)
            number += 1
            yield {**record, "id": number, "image_id": before + image}
        before += count


if __name__ == "__main__":
    main()
