"""Check a converted dataset before anything expensive is run on it.

Errors stop later stages; warnings cast doubt on their results. The report is written either way.
With errors, the exit status is 1, and a page of them is written as well: Snakemake removes the
report of a failed job.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from segtune.checks.run import Target, check_dataset
from segtune.core.config import INPUT_PIXELS, QUERIES, parse_section
from segtune.core.console import log_line
from segtune.core.cores import usable_cores
from segtune.core.errors import DatasetError, exit_on_error
from segtune.core.tiles_settings import TilesSettings
from segtune.core.typed_json import write_typed
from segtune.core.validate_settings import ValidateSettings
from segtune.dataset.coco import SPLITS, Split, read_manifest, read_unchecked_split
from segtune.dataset.findings import DatasetReport, Finding
from segtune.dataset.gate import dataset_fingerprint
from segtune.dataset.tile_choice import choose_tiles
from segtune.dataset.tiles import Tiles
from segtune.reports.validation_page import write_validation_page

MAX_ERRORS = 5  # kinds on the terminal; the page has all
MAX_PRINTED = 3  # examples per rule; the report has more
MAX_LENGTH = 300  # characters of an example


def main(argv: Sequence[str] | None = None) -> None:
    """Write `report.json`; if there are errors, write `errors.html` and fail."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("validate"):
        settings = parse_section(ValidateSettings, arguments.settings)
        # First, so that a file that changes meanwhile makes a report that is not accepted.
        fingerprint = dataset_fingerprint(arguments.coco)
        splits = [read_unchecked_split(arguments.coco / f"{name}.json") for name in SPLITS]
        report = check_dataset(
            splits,
            read_manifest(arguments.coco),
            settings=settings,
            target=Target(
                queries=QUERIES[arguments.model],
                input_pixels=arguments.image_size or INPUT_PIXELS[arguments.model],
                tiles=_tiles(arguments, splits[0]),
            ),
            fingerprint=fingerprint,
            workers=max(1, arguments.workers),
        )
        write_typed(arguments.out / "report.json", report)
        _log(report)
        _refuse_errors(report, splits, arguments, settings)
        log_line(f"valid: {sum(len(split.images) for split in splits)} images")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.validate", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder of segtune.convert")
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--model", choices=sorted(QUERIES), default="tiny", help="to be trained")
    parser.add_argument("--image-size", type=int, help="side of its input, in pixels")
    parser.add_argument("--tiles", default="{}", help="the tiles section, as JSON")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="threads")
    parser.add_argument("--settings", default="{}", help="the validate section, as JSON")
    return parser


def _tiles(arguments: argparse.Namespace, train: Split) -> Tiles:
    """In which images will be seen: objects have the size that they have there."""
    settings = parse_section(TilesSettings, arguments.tiles)
    return choose_tiles(
        train, settings, model=arguments.model, image_size=arguments.image_size
    ).tiles


def _log(report: DatasetReport) -> None:
    for change in report.overridden:
        log_line(
            f"{change.rule} is {change.severity} instead of {change.default} "
            f"(validate.severities); found in {_places(change.count)}"
        )
    for warning in report.of("warning"):
        log_line(f"WARNING: {_line(warning)}")


def _refuse_errors(
    report: DatasetReport,
    splits: Sequence[Split],
    arguments: argparse.Namespace,
    settings: ValidateSettings,
) -> None:
    page = arguments.out / "errors.html"
    page.unlink(missing_ok=True)
    errors = sorted(report.of("error"), key=lambda error: -error.count)
    if errors:
        write_validation_page(page, report, splits, settings.max_examples)
        for error in errors[:MAX_ERRORS]:
            log_line(f"ERROR: {_line(error)}")
        more = len(errors) - MAX_ERRORS
        kinds = f"errors of {len(errors)} kind{'s' if len(errors) > 1 else ''}"
        raise DatasetError(
            f"{kinds}, the {MAX_ERRORS} most frequent above" if more > 0 else f"{kinds}, see above",
            file=arguments.coco,
            fix=f"See {page}",
        )


def _line(found: Finding) -> str:
    examples = ", ".join(place.text[:MAX_LENGTH] for place in found.examples[:MAX_PRINTED])
    more = found.count - MAX_PRINTED
    places = f"{examples} and {more} more" if more > 0 else examples
    return f"{found.rule}: {found.title} ({places}): {found.fix}"


def _places(count: int) -> str:
    return f"{count} place{'' if count == 1 else 's'}"


if __name__ == "__main__":
    main()
