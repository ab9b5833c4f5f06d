"""Score base and fine-tuned predictions side by side on the held-out test split."""

import argparse
import csv
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segtune.atomic import atomic_path, write_json
from segtune.coco import Split, read_split
from segtune.config import EvaluateSettings, parse_section
from segtune.dataset import has_masks
from segtune.errors import DatasetError, exit_on_error
from segtune.metrics import SUMMARY, average_precision, false_alarms
from segtune.reporting import say

Metrics = dict[str, Any]
COLUMNS = ("box_AP", "mask_AP", "false_alarms")


def main(argv: Sequence[str] | None = None) -> None:
    """Write `metrics.json`, `per_class.csv` and `report.html`."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("evaluate"):
        settings = parse_section(EvaluateSettings, arguments.settings)
        split = read_split(arguments.coco)
        scores = {
            "base": _scores(split, _read_results(arguments.base, split), settings),
            "tuned": _scores(split, _read_results(arguments.tuned, split), settings),
        }
        metrics: Metrics = {"verdict": verdict(scores), **scores, "counts": _counts(split)}
        _write_per_class(arguments.out / "per_class.csv", split, scores)
        _write_report(arguments.out / "report.html", split, metrics)
        write_json(arguments.out / "metrics.json", metrics)
        say(metrics["verdict"])


def verdict(scores: dict[str, Metrics]) -> str:
    """One sentence: better or worse than the base model, and by how much."""
    kind = "mask" if scores["base"]["mask"] else "box"
    base, tuned = (scores[name][kind]["AP"] or 0.0 for name in ("base", "tuned"))
    word = "better than" if tuned > base else "WORSE than" if tuned < base else "equal to"
    return (
        f"fine-tuned is {word} zero-shot on the test split: "
        f"{kind} AP {tuned:.4f} against {base:.4f} ({tuned - base:+.4f})"
    )


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


def _scores(split: Split, results: list[dict[str, Any]], settings: EvaluateSettings) -> Metrics:
    masks = average_precision(split, results, "segm") if has_masks(split) else None
    return {
        "box": average_precision(split, results, "bbox"),
        "mask": masks,
        "false_alarms": false_alarms(split, results, settings.false_alarm_score),
    }


def _counts(split: Split) -> dict[str, int]:
    objects = [a for annotations in split.annotations.values() for a in annotations]
    return {
        "images": len(split.images),
        "objects": len(objects),
        "box_only_objects": sum(not a.segmentation for a in objects),
    }


def _per_class(split: Split, scores: dict[str, Metrics]) -> list[list[Any]]:
    """Rows: class, then every column for base and for tuned."""
    rows = []
    for name in (category.name for category in split.categories):
        row: list[Any] = [name]
        for model in ("base", "tuned"):
            found, masks = scores[model], scores[model]["mask"]
            row.append(found["box"]["per_class"][name])
            row.append(masks["per_class"][name] if masks else None)
            row.append(found["false_alarms"][name])
        rows.append(row)
    return rows


def _header() -> list[str]:
    return ["class", *(f"{model}_{name}" for model in ("base", "tuned") for name in COLUMNS)]


def _write_per_class(path: Path, split: Split, scores: dict[str, Metrics]) -> None:
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(_header())
        writer.writerows(_per_class(split, scores))


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
        "is the share of such pictures.</p></html>"
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
