"""One page about a finished training run: `summary.html`, self-contained."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segtune.core.atomic import atomic_path

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;"
    "color-scheme:light dark}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem "
    ".8rem;text-align:right;border-bottom:1px solid #8888}td:first-child,th:first-child"
    "{text-align:left}img,svg{max-width:100%}figure{margin:1rem 0}"
)
CURVE = (640, 160)  # width and height of a plot, in pixels

Record = Mapping[str, Any]


def write_summary(
    out: Path, recipe: Mapping[str, Any], counts: Mapping[str, tuple[int, int]]
) -> None:
    """Write the page from what a run has left.

    Args:
        out: folder with `history.jsonl` and `valid_images/`; gets `summary.html`.
        recipe: of the adapter, with its `settings` and its `result`.
        counts: component -> (trainable, all) parameters.
    """
    lines = (out / "history.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if record["kind"] == "train"]
    validations = [record for record in records if record["kind"] == "valid"]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'><title>segtune training</title>",
        f"<style>{STYLE}</style><main><h1>{html.escape(headline(recipe))}</h1>",
        f"<p>{html.escape(_effort(steps, recipe['result']))}</p>",
        "<h2>Scores on the valid split</h2>",
        _validation_table(validations),
        "<h2>Loss per step</h2>",
        _curve([step["loss"] for step in steps], "loss of each optimizer step"),
        "<h2>Validation images</h2>",
        "<p>Ground truth is white; what was found with a score of 0.5 or more is in color.</p>",
        *_images(out / "valid_images", recipe["result"]["best_epoch"]),
        "<h2>What was trained</h2>",
        _parameter_table(counts),
        f"<details><summary>Settings</summary><pre>"
        f"{html.escape(json.dumps(recipe['settings'], indent=1))}</pre></details></main></html>",
    ]
    with atomic_path(out / "summary.html") as temporary:
        temporary.write_text("\n".join(parts), "utf-8")


def headline(recipe: Mapping[str, Any]) -> str:
    """The first line: which epoch was kept, and whether training helped."""
    result, score = recipe["result"], recipe["settings"]["select_by"]
    best, base = result["best_score"], result["base_score"]
    helped = "better" if best > base else "NOT better"
    return (
        f"Epoch {result['best_epoch']} was kept: {score} {best:.4f} on valid, {helped} than the "
        f"{base:.4f} before training"
    )


def _effort(steps: Sequence[Record], result: Mapping[str, Any]) -> str:
    waited = sum(s["data_wait_share"] / s["images_per_second"] for s in steps)
    spent = sum(1 / s["images_per_second"] for s in steps)
    return (
        f"{len(steps)} optimizer steps in {result['seconds'] / 60:.1f} minutes, "
        f"{len(steps) / spent:.1f} images per second, {100 * waited / spent:.0f} % of the time "
        f"waiting for data, at most {max(s['peak_memory_gb'] for s in steps):.1f} GB of memory "
        "per process."
    )


def _validation_table(validations: Sequence[Record]) -> str:
    totals = [name for name in validations[-1] if name not in ("kind", "step", "epoch")]
    totals.remove("per_class")
    classes = list(validations[-1]["per_class"])
    header = "".join(f"<th>{html.escape(name)}</th>" for name in ["epoch", *totals, *classes])
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{value}</td>"
            for value in [
                record["epoch"],
                *(f"{record[name]:.4f}" for name in totals),
                *(f"{record['per_class'][name]:.4f}" for name in classes),
            ]
        )
        + "</tr>"
        for record in validations
    )
    return (
        "<table><caption>Scores over all classes, then the AP of each class; epoch 0 is the base "
        f"model</caption><tr>{header}</tr>{rows}</table>"
    )


def _curve(values: Sequence[float], described: str) -> str:
    width, height = CURVE
    highest = max(values) or 1.0
    points = " ".join(
        f"{width * (n + 0.5) / len(values):.1f},{height * (1 - value / highest):.1f}"
        for n, value in enumerate(values)
    )
    return (
        f"<figure><svg viewBox='0 0 {width} {height}' width='{width}' role='img' "
        f"aria-label='{described}'><polyline points='{points}' fill='none' stroke='#0072b2' "
        f"stroke-width='1.5'/></svg><figcaption>From {values[0]:.3f} to {values[-1]:.3f}; the top "
        f"is {highest:.3f}, the bottom 0.</figcaption></figure>"
    )


def _images(folder: Path, best_epoch: int) -> list[str]:
    found = []
    for epoch, title in ((0, "before training"), (best_epoch, f"after epoch {best_epoch}")):
        data = base64.b64encode((folder / f"epoch_{epoch:04d}.jpg").read_bytes()).decode()
        found.append(
            f"<figure><img alt='validation images {title}' src='data:image/jpeg;base64,{data}'>"
            f"<figcaption>{title.capitalize()}</figcaption></figure>"
        )
    return found


def _parameter_table(counts: Mapping[str, tuple[int, int]]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{trainable:,}</td><td>{every:,}</td></tr>"
        for name, (trainable, every) in counts.items()
    )
    return f"<table><tr><th>component</th><th>trainable</th><th>all</th></tr>{rows}</table>"
