"""Score base and fine-tuned predictions side by side on the held-out test split.

With the same models' predictions on the valid split, the score from which to trust each class
is chosen there. With their answers to other words, what was forgotten is measured.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from segtune.atomic import atomic_path, write_json
from segtune.calibration import LOWEST_SCORE
from segtune.coco import Split, rasterised, read_split
from segtune.comparison import Assessment, Metrics, assess, differences, main_kind, matched
from segtune.config import EvaluateSettings, parse_section
from segtune.errors import DatasetError, exit_on_error
from segtune.forgetting import forgetting
from segtune.matches import ClassMatches
from segtune.mistakes import judge
from segtune.predictions import Records, read_asked, read_results
from segtune.report import write_report
from segtune.reporting import say
from segtune.suspects import Suspect, find_suspects

MODELS = ("base", "tuned")
SUSPECTS = 50  # listed per split
FEW = 10  # pictures, of which no interval tells much
MANY = 10_000  # detections; fewer are assessed before another process has started


def main(argv: Sequence[str] | None = None) -> None:
    """Write `metrics.json`, `per_class.csv` and `report.html`."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    for given in (
        (arguments.valid, arguments.base_valid, arguments.tuned_valid),
        (arguments.base_outside, arguments.tuned_outside),
    ):
        if any(given) and not all(given):
            parser.error("--valid, --base-valid, --tuned-valid and both --…-outside go together")
    with exit_on_error("evaluate"):
        _evaluate(arguments, parse_section(EvaluateSettings, arguments.settings))


def _evaluate(arguments: argparse.Namespace, settings: EvaluateSettings) -> None:
    split = rasterised(read_split(arguments.coco))
    if not split.images or not split.categories:
        raise DatasetError("no pictures or no classes to evaluate on", file=arguments.coco)
    kind = main_kind(split)
    results = {model: read_results(vars(arguments)[model], split) for model in MODELS}
    valid, others, suspects = _on_valid(arguments, kind)
    assessed = _assessed(split, results, valid, settings.false_alarm_score)
    held_out = not any(_share_pictures(split, other) for other in others)
    tuned_matches = assessed["tuned"].matches[kind]
    on_test = _suspects(split, results["tuned"], tuned_matches, kind)
    suspects = [*on_test, *(suspects if held_out else [])]
    found = differences(split, assessed["base"], assessed["tuned"], settings.resamples)
    metrics: Metrics = {
        "verdict": verdict(assessed, found, kind, held_out, len(split.images)),
        "kind": kind,
        "held_out": held_out,
        "false_alarm_score": settings.false_alarm_score,
        "difference": found,
        **{model: assessed[model].numbers for model in MODELS},
        "forgetting": _forgetting(arguments, split, settings),
        "suspects": [asdict(s) for s in sorted(suspects, key=lambda s: -s.suspicion)],
        "counts": _counts(split),
    }
    _write_per_class(arguments.out / "per_class.csv", split, metrics)
    judged = {model: assessed[model].judged for model in MODELS}
    write_json(arguments.out / "metrics.json", metrics)
    write_report(arguments.out / "report.html", split, metrics, judged, others)
    say(metrics["verdict"])


def _assessed(
    split: Split,
    results: Mapping[str, Records],
    valid: Mapping[str, Sequence[ClassMatches] | None],
    false_alarm_score: float,
) -> dict[str, Assessment]:
    """Both models, side by side where that is worth the start of a process."""
    jobs = {model: (split, results[model], valid[model], false_alarm_score) for model in MODELS}
    if sum(map(len, results.values())) < MANY:
        return {model: assess(*job) for model, job in jobs.items()}
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        base = pool.submit(assess, *jobs["base"])
        tuned = assess(*jobs["tuned"])
        return {"base": base.result(), "tuned": tuned}


def _share_pictures(split: Split, other: Split) -> bool:
    """Whether the export had no test split and `valid` stands in for it."""
    return bool({i.file_name for i in split.images} & {i.file_name for i in other.images})


def verdict(
    assessed: Mapping[str, Assessment],
    differences: Mapping[str, Metrics],
    kind: str,
    held_out: bool,
    pictures: int,
) -> str:
    """One sentence: better, worse or undecided, by how much, and what to be careful about."""
    found = differences[kind]["AP"]
    if found["difference"] is None:
        return "undecided: the test split holds nothing to measure"
    base, tuned = (assessed[model].numbers[kind]["AP"] for model in MODELS)
    word = "better than" if found["low"] > 0 else "WORSE than" if found["high"] < 0 else None
    said = f"fine-tuned is {word} zero-shot" if word else "undecided between both"
    cautions = "" if held_out else "; not held out, so the scores are too good"
    cautions += f"; only {pictures} pictures" if pictures < FEW else ""
    return (
        f"{said} on the test split: {kind} AP {tuned:.4f} fine-tuned against {base:.4f} "
        f"zero-shot ({found['difference']:+.4f}, 95 % interval {found['low']:+.4f} to "
        f"{found['high']:+.4f}){cautions}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.evaluate", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="the test split")
    parser.add_argument("--base", type=Path, required=True, help="zero-shot predictions")
    parser.add_argument("--tuned", type=Path, required=True, help="fine-tuned predictions")
    parser.add_argument("--valid", type=Path, help="the valid split")
    parser.add_argument("--base-valid", type=Path, help="zero-shot predictions on it")
    parser.add_argument("--tuned-valid", type=Path, help="fine-tuned predictions on it")
    parser.add_argument("--base-outside", type=Path, help="zero-shot answers to other words")
    parser.add_argument("--tuned-outside", type=Path, help="fine-tuned answers to other words")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--settings", default="{}", help="the evaluate section, as JSON")
    return parser


def _on_valid(
    arguments: argparse.Namespace, kind: str
) -> tuple[dict[str, Sequence[ClassMatches] | None], list[Split], list[Suspect]]:
    """Per model, what thresholds are chosen from; the valid split and its suspicious labels."""
    if not arguments.valid:
        return dict.fromkeys(MODELS), [], []
    split = rasterised(read_split(arguments.valid))
    base, tuned = (read_results(vars(arguments)[f"{model}_valid"], split) for model in MODELS)
    found = {m: matched(split, r, kind).matches for m, r in (("base", base), ("tuned", tuned))}
    return dict(found), [split], _suspects(split, tuned, found["tuned"], kind)


def _suspects(
    split: Split, tuned: Records, matches: Sequence[ClassMatches], kind: str
) -> list[Suspect]:
    low = {category.id: LOWEST_SCORE for category in split.categories}
    judged = judge(split, tuned, low, kind == "mask")
    return find_suspects(split, judged, matches, SUSPECTS)


def _forgetting(
    arguments: argparse.Namespace, split: Split, settings: EvaluateSettings
) -> Metrics | None:
    if not arguments.base_outside:
        return None
    asked = [read_asked(vars(arguments)[f"{model}_outside"], split) for model in MODELS]
    return forgetting(asked[0], asked[1], settings.false_alarm_score)


def _counts(split: Split) -> dict[str, int]:
    objects = [a for annotations in split.annotations.values() for a in annotations]
    return {
        "images": len(split.images),
        "objects": len(objects),
        "box_only_objects": sum(not a.segmentation for a in objects),
    }


def _write_per_class(path: Path, split: Split, metrics: Metrics) -> None:
    rows = [_row(category.name, metrics) for category in split.categories]
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def _row(name: str, metrics: Metrics) -> dict[str, Any]:
    """The columns of a class; an empty cell is what cannot be measured."""
    row: dict[str, Any] = {"class": name}
    for model in MODELS:
        found = metrics[model]
        masks, overlap = found["mask"], found["overlap"]
        at = found["calibration"]["thresholds"][name]
        values = {
            "box_AP": found["box"]["per_class"][name],
            "mask_AP": masks and masks["per_class"][name],
            **{
                f"{metrics['kind']}_AP_{size}": value
                for size, value in found[metrics["kind"]]["per_class_and_size"][name].items()
            },
            "dice": overlap and overlap["dice"]["per_class"][name],
            "iou": overlap and overlap["iou"]["per_class"][name],
            "boundary_iou": overlap and overlap["boundary_iou"]["per_class"][name],
            "false_alarms": found["false_alarms"][name],
            "threshold": at["threshold"],
            "precision": at["precision"],
            "recall": at["recall"],
        }
        row |= {f"{model}_{column}": value for column, value in values.items()}
    interval = metrics["difference"][metrics["kind"]]["per_class"][name]
    columns = ("difference", "difference_low", "difference_high")
    return row | dict(zip(columns, interval.values(), strict=True))


if __name__ == "__main__":
    main()
