"""List the earlier trainings and predictions that are kept below a folder of results.

Each has a digest of everything that it depends on; when settings go back to its own, it is put
in place again instead of being made again. With `--remove` or `--all`, they are removed; those
in place stay.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from segtune.core.console import log_line
from segtune.core.errors import ConfigError, exit_on_error
from segtune.core.fingerprints import differences
from segtune.core.kept import Kept, all_kept, is_in_place, place_of, stores


def main(argv: Sequence[str] | None = None) -> None:
    """List what is kept, or remove some of it."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("kept"):
        found = {store: all_kept(store) for store in stores(arguments.results)}
        if arguments.all or arguments.remove:
            _remove(found, None if arguments.all else arguments.remove)
        else:
            _list(found, arguments.results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.kept", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
    removed = parser.add_mutually_exclusive_group()
    removed.add_argument("--remove", nargs="+", metavar="DIGEST", help="remove these")
    removed.add_argument("--all", action="store_true", help="remove all that are not in place")
    return parser


def _list(found: Mapping[Path, Sequence[Kept]], results: Path) -> None:
    if not any(found.values()):
        log_line(f"nothing is kept below {results}")
    for store, results_kept in found.items():
        log_line(f"{store}:")
        placed = next((k for k in results_kept if is_in_place(k, place_of(store))), None)
        for kept in results_kept:
            note = "in place" if kept is placed else _changes(placed, kept)
            size = f"{kept.size / 1e6:.1f} MB"
            log_line(f"  {kept.digest}  {kept.finished}  {kept.summary}  {size}  {note}")


def _changes(placed: Kept | None, kept: Kept) -> str:
    """What differs from the result in place: settings with their values, the rest by name."""
    if placed is None:
        return ""
    changes = differences(placed.fingerprint, kept.fingerprint)
    settings = [line.removeprefix("settings.") for line in changes if line.startswith("settings.")]
    others = {line.partition(":")[0].partition(".")[0] for line in changes} - {"settings"}
    return "; ".join([*settings, *(f"other {name}" for name in sorted(others))])


def _remove(found: Mapping[Path, Sequence[Kept]], digests: Sequence[str] | None) -> None:
    in_place = {
        kept.folder
        for store, results in found.items()
        for kept in results
        if is_in_place(kept, place_of(store))
    }
    by_digest: dict[str, list[Kept]] = {}
    for kept in (kept for results in found.values() for kept in results):
        by_digest.setdefault(kept.digest, []).append(kept)
    if digests is not None:
        _require_removable(digests, by_digest, in_place)
    for kept in (k for digest in digests or by_digest for k in by_digest[digest]):
        if kept.folder not in in_place:
            shutil.rmtree(kept.folder)
            log_line(f"removed {kept.folder}")


def _require_removable(
    digests: Sequence[str], by_digest: Mapping[str, Sequence[Kept]], in_place: set[Path]
) -> None:
    for digest in digests:
        if digest not in by_digest:
            raise ConfigError(
                f"nothing with the digest {digest} is kept", fix="List without --remove first"
            )
        if any(kept.folder in in_place for kept in by_digest[digest]):
            raise ConfigError(
                f"{digest} is the result in place", fix="Remove others, or the whole folder by hand"
            )


if __name__ == "__main__":
    main()
