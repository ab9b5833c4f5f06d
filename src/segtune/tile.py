"""Cut train and valid into tiles: overlapping windows of large images, with their objects.

The result is a converted dataset like the one of `segtune.convert`, without a test split: what is
evaluated are whole images. `tiles.json` beside it says how large the tiles are and why, and
`segtune.predict --tiles tiles.json` cuts images in the same way and stitches what it finds.
"""

import argparse
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from segtune.core.atomic import disk_problems
from segtune.core.config import INPUT_PIXELS, parse_section
from segtune.core.console import log_line, progress
from segtune.core.errors import exit_on_error
from segtune.core.publishing import published, require_space
from segtune.core.tiles_settings import TilesSettings
from segtune.core.typed_json import write_typed
from segtune.dataset.coco import (
    MANIFEST,
    Manifest,
    ManifestEntry,
    Split,
    read_manifest,
    read_split,
    write_manifest,
    write_split,
)
from segtune.dataset.data_workers import read_ahead
from segtune.dataset.images import upright_of_size
from segtune.dataset.tile_choice import TileChoice, choose_tiles
from segtune.dataset.tiled_split import TILE_NAME, Tile, split_of_tiles, tiled_split
from segtune.dataset.tiles import TILES

SPLITS = ("train", "valid")
IMAGES = "images"  # folder of the tiles
BYTES_PER_PIXEL = 1.5  # half of what pixels have: about what PNG makes of photographs
COMPRESSION = 1  # of PNG's 9: higher ones take several times as long for a tenth


@dataclass(frozen=True)
class _Counts:
    """What a split consists of."""

    images: int
    tiles_with_objects: int
    empty_tiles: int
    objects: int  # an object that is labeled in two tiles counts twice
    ignored_pieces: int  # parts of objects that are labeled in other tiles, and crowds


@dataclass(frozen=True)
class _Summary(TileChoice):
    """The content of `tiles.json`."""

    splits: dict[str, _Counts]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tiles, `train.json`, `valid.json`, `manifest.json` and `tiles.json`."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("tile"):
        settings = parse_section(TilesSettings, arguments.settings)
        splits = [read_split(arguments.coco / f"{name}.json") for name in SPLITS]
        choice = choose_tiles(
            splits[0], settings, model=arguments.model, image_size=arguments.image_size
        )
        log_line(choice.reason)
        with published(arguments.out) as new:
            _write(new, arguments, choice, splits)
        _remove_others(arguments.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.tile", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tiles")
    parser.add_argument("--model", choices=sorted(INPUT_PIXELS), default="tiny")
    parser.add_argument("--image-size", type=int, help="side of the model's input, in pixels")
    settings = "the tiles section, as JSON; auto without it"
    parser.add_argument("--settings", default='"auto"', help=settings)
    parser.add_argument("--workers", type=int, default=0, help="processes that cut images")
    return parser


def _write(
    folder: Path, arguments: argparse.Namespace, choice: TileChoice, splits: Sequence[Split]
) -> None:
    """Write to `folder` what will be moved to its place."""
    place: Path = arguments.out
    if choice.side is None:
        used: dict[str, list[Tile]] = {split.name: [] for split in splits}
        manifest, written = read_manifest(arguments.coco), list(splits)
    else:
        used = {split.name: tiled_split(split, choice.tiles) for split in splits}
        written = [split_of_tiles(split, used[split.name]) for split in splits]
        _require_space(place, used)
        entries = [
            entry
            for split in splits
            for entry in _cut_images(folder / IMAGES, split, used[split.name], arguments.workers)
        ]
        manifest = Manifest(place.resolve() / IMAGES, tuple(entries))
    for split in written:
        write_split(folder / f"{split.name}.json", split)
    write_manifest(folder / MANIFEST, manifest, place)
    counts = {split.name: _counts(split, used[split.name]) for split in splits if choice.side}
    summary = _Summary(**asdict(choice), splits=counts)
    write_typed(folder / TILES, summary)
    for name, count in counts.items():
        log_line(
            f"{name}: {count.tiles_with_objects} tiles with objects and {count.empty_tiles} "
            f"without, of {count.images} images"
        )


def _cut_images(
    folder: Path, split: Split, used: Sequence[Tile], workers: int
) -> Iterator[ManifestEntry]:
    """Write the tiles of a split; each of its images is read once."""
    groups = [list(group) for _, group in groupby(used, key=lambda tile: tile.source.id)]
    write = partial(_cut_image, folder, split.root)
    with progress("image", len(groups), visible=True) as advance:
        for entries in read_ahead(write, groups, workers=workers):
            yield from entries
            advance()


def _cut_image(folder: Path, root: Path, tiles: Sequence[Tile]) -> list[ManifestEntry]:
    source = tiles[0].source
    pixels = upright_of_size(root / source.file_name, source.width, source.height)
    entries = []
    for tile in tiles:
        window = tile.window
        content = io.BytesIO()
        crop = pixels.crop((window.left, window.top, window.right, window.bottom))
        crop.save(content, "PNG", compress_level=COMPRESSION)
        place = folder / tile.image.file_name
        # Here, since a worker's OSError would reach the main process as one without a number.
        with disk_problems(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.getvalue())
        digest = hashlib.sha256(content.getbuffer()).hexdigest()
        entries.append(ManifestEntry(tile.image.file_name, content.tell(), digest))
    return entries


def _require_space(place: Path, used: dict[str, list[Tile]]) -> None:
    pixels = sum(t.window.width * t.window.height for tiles in used.values() for t in tiles)
    require_space(place, round(pixels * BYTES_PER_PIXEL))


def _counts(split: Split, used: Sequence[Tile]) -> _Counts:
    annotations = [a for tile in used for a in tile.annotations]
    return _Counts(
        images=len(split.images),
        tiles_with_objects=sum(tile.has_objects for tile in used),
        empty_tiles=sum(not tile.has_objects for tile in used),
        objects=sum(not a.iscrowd for a in annotations),
        ignored_pieces=sum(a.iscrowd for a in annotations),
    )


def _remove_others(folder: Path) -> None:
    """Remove tiles that an earlier run has left, of another side for instance."""
    listed = {entry.path for entry in read_manifest(folder).images}
    for name in SPLITS:
        for path in (folder / IMAGES / name).glob("*.png"):
            tile = f"{name}/{path.name}"
            if TILE_NAME.fullmatch(tile) and tile not in listed:
                path.unlink()


if __name__ == "__main__":
    main()
