"""Compare results folders: their data, their settings, and their scores on the same test images.

The first folder is the reference, with which each further one is compared. Scores are compared
only on test images that both have, with the ground truth of the reference.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from segtune.core.config import EvaluateSettings
from segtune.core.console import log_line
from segtune.core.errors import ConfigError, DatasetError, exit_on_error
from segtune.core.typed_json import write_typed
from segtune.dataset.encoded_anew import recognized
from segtune.evaluation.leaks import Leak, find_leaks
from segtune.evaluation.metrics import Outcome
from segtune.evaluation.results_folder import ResultsFolder, read_results_folder
from segtune.evaluation.run_comparison import ComparedRuns, Comparison, compare_runs
from segtune.evaluation.run_settings import differing
from segtune.evaluation.runs_file import Runs, RunSummary
from segtune.evaluation.shown_images import shown_images


def main(argv: Sequence[str] | None = None) -> None:
    """Write `runs.json`."""
    parser = argparse.ArgumentParser(prog="segtune.runs", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="results folders; at least two")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs.json")
    arguments = parser.parse_args(argv)
    with exit_on_error("runs"):
        names = _names(arguments.results)
        runs = _compare(_read_folders(names, arguments.results))
        write_typed(arguments.out / "runs.json", runs)
        for line in (*map(_leak_line, runs.leaks), *(c.sentence for c in runs.comparisons)):
            log_line(line)


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell all of them apart."""
    # Unlike that of Path, this resolves what it can of links in a circle and of too long names.
    places = [Path(os.path.realpath(path)) for path in paths]
    if len(places) < 2:
        raise ConfigError("one results folder is nothing to compare", fix="Give two or more")
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ConfigError(
                "the same folder is given twice", file=paths[number], fix="Give each folder once"
            )
    longest = max(len(place.parts) for place in places)
    for length in range(1, longest + 1):
        names = ["/".join(place.parts[-length:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]


def _read_folders(names: Sequence[str], paths: Sequence[Path]) -> dict[str, ResultsFolder]:
    """The folders by name; images that an earlier one has in another encoding count as its own."""
    folders: dict[str, ResultsFolder] = {}
    for name, path in zip(names, paths, strict=True):
        run = read_results_folder(path)
        for earlier in folders.values():
            run = replace(run, data=recognized(run.data, earlier.data))
        folders[name] = run
    return folders


def _compare(folders: Mapping[str, ResultsFolder]) -> Runs:
    (first, reference), *further = folders.items()
    resamples = EvaluateSettings().resamples
    compared = [
        compare_runs((first, name), reference, run, resamples=resamples) for name, run in further
    ]
    _require_something_in_common(reference, compared)
    comparisons = tuple(found.comparison for found in compared)
    return Runs(
        sentence=_sentence(first, comparisons),
        runs=tuple(_summary(name, run) for name, run in folders.items()),
        confidence_threshold=reference.confidence_threshold,
        settings=differing([run.settings for run in folders.values()]),
        code=tuple(row.name for row in differing([run.code for run in folders.values()])),
        leaks=find_leaks({name: run.data for name, run in folders.items()}),
        comparisons=comparisons,
        images=shown_images(
            first, {c.comparison.run: c.scored for c in compared if c.scored is not None}
        ),
    )


def _require_something_in_common(
    reference: ResultsFolder, compared: Sequence[ComparedRuns]
) -> None:
    if not any(found.anything_in_common for found in compared):
        raise DatasetError(
            "no other run has an image or a class in common with this one",
            file=reference.path,
            fix="Compare runs on versions of one dataset",
        )


def _summary(name: str, run: ResultsFolder) -> RunSummary:
    return RunSummary(
        name=name,
        folder=str(run.path),
        version=run.version,
        images={split.name: len(split.images) for split in run.data.splits.values()},
        classes=len(run.data.splits["test"].categories),
        held_out=run.held_out,
    )


def _sentence(reference: str, comparisons: Sequence[Comparison]) -> str:
    if len(comparisons) == 1:
        return comparisons[0].sentence
    found = [comparison.outcome for comparison in comparisons]
    counts = {
        "better": found.count(Outcome.BETTER),
        "worse": found.count(Outcome.WORSE),
        "undecided": found.count(Outcome.UNDECIDED),
        "not compared in scores": found.count(None),
    }
    parts = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return f"{len(found)} runs compared with {reference}: {parts}"


def _leak_line(leak: Leak) -> str:
    return (
        f"WARNING: {len(leak.images)} test images of {leak.tested} are in the {leak.split} split "
        f"of {leak.learned}"
    )


if __name__ == "__main__":
    main()
