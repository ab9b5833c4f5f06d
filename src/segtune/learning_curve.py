"""Would more data help? From trainings on shares of the training split, scored on valid.

The error, 1 - score, mostly falls as a power of the number of images (Hestness et al. 2017,
"Deep Learning Scaling is Predictable, Empirically"). A line through its logarithm says what
twice as many images would bring, as far as so few points can.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from segtune.core.atomic import atomic_path, write_json
from segtune.core.console import log_line
from segtune.core.errors import ConfigError, DatasetError, exit_on_error
from segtune.dataset.coco import read_json, read_split
from segtune.reports.charts import learning_curve

LITTLE = 0.01  # of a score; less is not worth labeling for
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>segtune learning curve</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto;
padding: 0 1rem; color-scheme: light dark } td, th { padding: .2rem .8rem; text-align: right }
svg text { font: 12px system-ui, sans-serif; fill: CanvasText } svg .frame { fill: none }
svg .frame, svg .axis { stroke: #8888 }</style>
<main><h1>{{ found.verdict }}</h1>
<p>{{ score }} on the valid split of models that were trained on shares of the training split,
each with as many optimizer steps. The line is the power law through these points; the last,
hollow one is what it expects of twice as many images.</p>
<figure>{{ plot }}</figure>
<table><tr><th scope="col">images</th><th scope="col">{{ score }}</th>
<th scope="col">power law</th></tr>
{% for point in found.points %}<tr><td>{{ point.images }}</td>
<td>{{ "%.4f" | format(point.score) }}</td><td>{{ "%.4f" | format(point.fitted) }}</td></tr>
{% endfor %}<tr><td>{{ found.twice.images }}</td><td></td>
<td>{{ "%.4f" | format(found.twice.fitted) }}</td></tr></table></main></html>
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Write `learning_curve.json` and `learning_curve.html`."""
    parser = argparse.ArgumentParser(prog="segtune.learning_curve", description=__doc__)
    parser.add_argument(
        "--run",
        type=Path,
        nargs=2,
        action="append",
        required=True,
        metavar=("COCO", "ADAPTER"),
        help="folders of a training's data and of its adapter; once per training",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args(argv)
    with exit_on_error("learning_curve"):
        scores = [_score(adapter / "recipe.json") for _, adapter in arguments.run]
        images = [len(read_split(coco / "train.json").images) for coco, _ in arguments.run]
        if len(set(images)) < 2:
            raise ConfigError("a curve needs trainings on different numbers of images")
        found = extrapolated(images, [value for _, value in scores])
        write_json(arguments.out / "learning_curve.json", found)
        page = Environment(autoescape=True).from_string(PAGE)
        score = scores[0][0]
        plot = Markup(learning_curve(found["points"], found["twice"]))
        with atomic_path(arguments.out / "learning_curve.html") as temporary:
            temporary.write_text(page.render(found=found, score=score, plot=plot), "utf-8")
        log_line(found["verdict"])


def _score(recipe: Path) -> tuple[str, float]:
    """Name and value of a training's best score on valid."""
    values = read_json(recipe)
    try:
        return str(values["settings"]["select_by"]), float(values["result"]["best_score"])
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"no recipe of a training ({error!r})", file=recipe, fix="Run segtune.train again"
        ) from None


def extrapolated(images: Sequence[int], scores: Sequence[float]) -> dict[str, Any]:
    """The power law through scores, and what it expects of twice the most images.

    Args:
        images: of each training, two different numbers at the least.
        scores: of each training, below 1 (a perfect score is taken for 0.999999).

    Returns:
        `points`, each with `images`, `score` and `fitted`; `twice`; the `gain` expected of
        it; and the `verdict` in words.
    """
    pairs = sorted(zip(images, scores, strict=True))
    counts, values = np.array(pairs, float).T
    errors = np.clip(1 - values, 1e-6, None)
    slope, level = np.polyfit(np.log(counts), np.log(errors), 1)

    def fitted(count: float) -> float:
        return 1 - math.exp(level + slope * math.log(count))

    points = [{"images": count, "score": score, "fitted": fitted(count)} for count, score in pairs]
    most = max(images)
    gain = fitted(2 * most) - fitted(most)
    spread = max(abs(point["score"] - point["fitted"]) for point in points)
    return {
        "points": points,
        "twice": {"images": 2 * most, "fitted": fitted(2 * most)},
        "gain": gain,
        "spread": spread,
        "verdict": _verdict(gain, spread, most),
    }


def _verdict(gain: float, spread: float, most: int) -> str:
    expected = f"{2 * most} images instead of {most} are expected to bring {gain:+.3f}"
    if gain + spread < LITTLE:
        return f"more data of this kind would help little: {expected}"
    if gain > max(LITTLE, 2 * spread):
        return f"more data would help: {expected}"
    return f"undecided: {expected}, but the points are {spread:.3f} off their curve"


if __name__ == "__main__":
    main()
