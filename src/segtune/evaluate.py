"""Score base and fine-tuned predictions side by side on the held-out test split."""

import argparse
import csv
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segtune.atomic import atomic_path, write_json
from segtune.bootstrap import paired_differences
from segtune.coco import Split, has_masks, read_split
from segtune.config import EvaluateSettings, parse_section
from segtune.errors import DatasetError, exit_on_error
from segtune.metrics import SUMMARY, IouType, Result, Scored, false_alarms, score
from segtune.reporting import say

Metrics = dict[str, Any]
COLUMNS = ("box_AP", "mask_AP", "false_alarms")
DIFFERENCE = ("difference", "low", "high")


def main(argv: Sequence[str] | None = None) -> None:
    """Write `metrics.json`, `per_class.csv` and `report.html`."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("evaluate"):
        settings = parse_section(EvaluateSettings, arguments.settings)
        split = read_split(arguments.coco)
        results = {
            "base": _read_results(arguments.base, split),
            "tuned": _read_results(arguments.tuned, split),
        }
        found = {name: _matched(split, values) for name, values in results.items()}
        scores = {name: _scores(split, found[name], results[name], settings) for name in results}
        differences = {
            kind: _difference(split, found["base"][kind], found["tuned"][kind], settings)
            for kind in found["base"]
        }
        metrics: Metrics = {
            "verdict": verdict(scores, differences),
            "difference": differences,
            **scores,
            "counts": _counts(split),
        }
        _write_per_class(arguments.out / "per_class.csv", split, metrics)
        _write_report(arguments.out / "report.html", split, metrics)
        write_json(arguments.out / "metrics.json", metrics)
        say(metrics["verdict"])


def verdict(scores: Mapping[str, Metrics], differences: Mapping[str, Metrics]) -> str:
    """One sentence: better, worse or undecided, and by how much."""
    kind = main_kind(differences)
    found = differences[kind]["AP"]
    if found["difference"] is None:
        return "undecided: the test split holds nothing to measure"
    base, tuned = (scores[name][kind]["AP"] for name in ("base", "tuned"))
    word = "better than" if found["low"] > 0 else "WORSE than" if found["high"] < 0 else None
    said = f"fine-tuned is {word} zero-shot" if word else "undecided between both"
    return (
        f"{said} on the test split: {kind} AP {tuned:.4f} fine-tuned against {base:.4f} "
        f"zero-shot ({found['difference']:+.4f}, 95 % interval {found['low']:+.4f} to "
        f"{found['high']:+.4f})"
    )


def main_kind(differences: Mapping[str, Metrics]) -> str:
    """What is judged: masks where there are some, else boxes."""
    return "mask" if "mask" in differences else "box"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.evaluate", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="the test split")
    parser.add_argument("--base", type=Path, required=True, help="zero-shot predictions")
    parser.add_argument("--tuned", type=Path, required=True, help="fine-tuned predictions")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--settings", default="{}", help="the evaluate section, as JSON")
    return parser


def _read_results(path: Path, split: Split) -> list[dict[str, Any]]:
    try:
        results = json.loads(path.read_text("utf-8"))
        if not isinstance(results, list):
            raise TypeError("no list")
        sizes = {image.id: [image.height, image.width] for image in split.images}
        known = {(i.id, c.id) for i in split.images for c in split.categories}
        strangers = sum((r["image_id"], r["category_id"]) not in known for r in results)
        for record in results if not strangers else []:
            _require_scorable(record, sizes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"not COCO results ({error!r})", file=path, remedy="Run segtune.predict again"
        ) from None
    if strangers:
        raise DatasetError(
            f"{strangers} detections on pictures or classes that the test split lacks",
            file=path,
            remedy="Predict on the same split that is evaluated",
        )
    return list(results)


def _require_scorable(record: dict[str, Any], sizes: dict[int, list[int]]) -> None:
    numbers = [record["score"], *record["bbox"]]
    if len(numbers) != 5 or not all(math.isfinite(number) for number in numbers):
        raise ValueError("score and bbox are not five finite numbers")
    if record["segmentation"]["size"] != sizes[record["image_id"]]:
        raise ValueError("a mask of another size than its picture")


def _matched(split: Split, results: Sequence[Result]) -> dict[str, Scored]:
    kinds: dict[str, IouType] = {"box": "bbox"}
    if has_masks(split):
        kinds["mask"] = "segm"
    return {name: score(split, results, kind) for name, kind in kinds.items()}


def _scores(
    split: Split,
    found: Mapping[str, Scored],
    results: Sequence[Result],
    settings: EvaluateSettings,
) -> Metrics:
    return {
        "box": found["box"].summary,
        "mask": found["mask"].summary if "mask" in found else None,
        "false_alarms": false_alarms(split, results, settings.false_alarm_score),
    }


def _difference(split: Split, base: Scored, tuned: Scored, settings: EvaluateSettings) -> Metrics:
    """Tuned minus base with its interval, over all classes and per class."""
    overall, per_class = paired_differences(base.matches, tuned.matches, settings.resamples)
    names = (category.name for category in split.categories)
    return {
        "AP": asdict(overall),
        "per_class": {n: asdict(i) for n, i in zip(names, per_class, strict=True)},
    }


def _counts(split: Split) -> dict[str, int]:
    objects = [a for annotations in split.annotations.values() for a in annotations]
    return {
        "images": len(split.images),
        "objects": len(objects),
        "box_only_objects": sum(not a.segmentation for a in objects),
    }


def _per_class(split: Split, metrics: Metrics) -> list[list[Any]]:
    """Rows: class, every column for base and for tuned, then the difference of their AP."""
    rows = []
    differences = metrics["difference"][main_kind(metrics["difference"])]["per_class"]
    for name in (category.name for category in split.categories):
        row: list[Any] = [name]
        for model in ("base", "tuned"):
            found, masks = metrics[model], metrics[model]["mask"]
            row.append(found["box"]["per_class"][name])
            row.append(masks["per_class"][name] if masks else None)
            row.append(found["false_alarms"][name])
        rows.append(row + [differences[name][column] for column in DIFFERENCE])
    return rows


def _header() -> list[str]:
    models = [f"{model}_{name}" for model in ("base", "tuned") for name in COLUMNS]
    return ["class", *models, "difference", "difference_low", "difference_high"]


def _write_per_class(path: Path, split: Split, metrics: Metrics) -> None:
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(_header())
        writer.writerows(_per_class(split, metrics))


def _write_report(path: Path, split: Split, metrics: Metrics) -> None:
    counts = metrics["counts"]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>segtune evaluation</title>",
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
        "padding:0 1rem}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;"
        "text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child"
        "{text-align:left}</style>",
        f"<h1>{html.escape(metrics['verdict'])}</h1>",
        f"<p>{counts['images']} pictures and {counts['objects']} objects of the test split, "
        f"{counts['box_only_objects']} of them without a mask and ignored in mask AP.</p>",
    ]
    for kind in ("mask", "box"):
        if metrics["base"][kind]:
            rows = [[n, *(metrics[m][kind][n] for m in ("base", "tuned"))] for n in SUMMARY]
            parts.append(f"<h2>{kind.capitalize()}es</h2>" if kind == "box" else "<h2>Masks</h2>")
            parts.append(_table([kind, "zero-shot", "fine-tuned"], rows))
    parts.append("<h2>Classes</h2>")
    parts.append(_table([name.replace("_", " ") for name in _header()], _per_class(split, metrics)))
    parts.append(
        "<p>A false alarm is a picture without the class in which it is detected; the column "
        "is the share of such pictures. The difference is of AP, fine-tuned minus zero-shot; with "
        "other test pictures it would lie between low and high in 95 of 100 cases (paired "
        "bootstrap over pictures).</p></html>"
    )
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(parts), "utf-8")


def _table(header: list[str], rows: list[list[Any]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None:
        return "<td>&ndash;</td>"
    return f"<td>{value:.4f}</td>" if isinstance(value, float) else f"<td>{html.escape(value)}</td>"


if __name__ == "__main__":
    main()
