"""Plots as SVG for a page: no scripts, colors of the page, a description for those who listen."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence

BASE, TUNED = "#e69f00", "#0072b2"  # zero-shot and fine-tuned, everywhere (Okabe and Ito 2008)

Interval = Mapping[str, float | None]


def forest(rows: Mapping[str, Interval]) -> str:
    """Differences with their intervals, a line each, around zero.

    Args:
        rows: name -> `difference`, `low` and `high`; None is left out.
    """
    known = {name: _three(row) for name, row in rows.items() if row["difference"] is not None}
    reach = max((abs(value) for row in known.values() for value in row), default=1.0) or 1.0
    label, plot, line = 150, 420, 26
    middle = label + plot / 2
    height = line * len(known) + 24
    parts = [_line(middle, 0, middle, height - 20, "axis")]
    for number, (name, row) in enumerate(known.items()):
        y = line * number + line / 2
        at, low, high = (middle + value / reach * plot / 2 for value in row)
        parts.append(_text(label - 8, y + 4, _short(name), "end"))
        parts.append(_line(low, y, high, y, "interval"))
        parts.append(f"<circle cx='{at:.1f}' cy='{y:.1f}' r='5' fill='{TUNED}'/>")
    for value in (-reach, 0.0, reach):
        x = middle + value / reach * plot / 2
        parts.append(_text(x, height - 4, f"{value:+.2f}" if value else "0", "middle"))
    told = "; ".join(
        f"{name} {row[0]:+.3f} ({row[1]:+.3f} to {row[2]:+.3f})" for name, row in known.items()
    )
    return _svg(label + plot + 30, height, f"Differences: {told}", parts)


def precision_recall(curves: Mapping[str, Sequence[float] | None], name: str) -> str:
    """Precision over recall in equal steps, of the zero-shot and the fine-tuned model.

    Args:
        curves: "base" and "tuned" -> precisions, or None.
        name: of the class.
    """
    side = 160
    parts = [_frame(side)]
    for model, values in curves.items():
        if values:
            steps = len(values) - 1
            points = [(side * n / steps, side * (1 - v)) for n, v in enumerate(values)]
            parts.append(_curve(points, model))
    parts.append(_text(side / 2, side + 16, "recall", "middle"))
    parts.append(_text(4, side - 6, "precision", "start"))
    return _svg(side, side + 20, f"Precision over recall of {name}", parts, pad=14)


def reliability(bins: Mapping[str, Iterable[Mapping[str, float]]]) -> str:
    """Share of right detections over their score; the diagonal is a score to be trusted."""
    side = 240
    parts = [_frame(side), _line(0, side, side, 0, "axis")]
    for model, found in bins.items():
        points = [(side * b["score"], side * (1 - b["precision"])) for b in found]
        parts.append(_curve(points, model))
        parts += [
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{_color(model)}'/>" for x, y in points
        ]
    parts.append(_text(side / 2, side + 16, "score", "middle"))
    parts.append(_text(4, 14, "share that is right", "start"))
    return _svg(side, side + 20, "Share of right detections over their score", parts, pad=14)


def learning_curve(points: Sequence[Mapping[str, float]], twice: Mapping[str, float]) -> str:
    """Scores over the number of images on a logarithmic axis, and the fitted curve.

    Args:
        points: with `images`, `score` and `fitted`, from few images to many.
        twice: with `images` and `fitted`, beyond the points.
    """
    width, height = 420, 220
    first, last = (math.log(p["images"]) for p in (points[0], twice))

    def place(images: float, score: float) -> tuple[float, float]:
        return width * (math.log(images) - first) / (last - first), height * (1 - score)

    curve = [place(p["images"], p["fitted"]) for p in [*points, twice]]
    parts = [f"<rect width='{width}' height='{height}' class='frame'/>", _curve(curve, "base")]
    parts += [_text(-6, 12, "1", "end"), _text(-6, height, "0", "end")]
    for p in points:
        x, y = place(p["images"], p["score"])
        parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5' fill='{TUNED}'/>")
        parts.append(_text(x, height + 16, f"{p['images']}", "middle"))
    x, y = curve[-1]
    parts.append(
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5' fill='none' stroke='{BASE}' stroke-width='2'/>"
    )
    parts.append(_text(x, height + 16, f"{twice['images']}", "middle"))
    told = ", ".join(f"{p['score']:.3f} with {p['images']} images" for p in points)
    return _svg(width, height + 20, f"Scores from 0 to 1: {told}", parts, pad=20)


def _three(row: Interval) -> tuple[float, float, float]:
    return tuple(row[name] or 0.0 for name in ("difference", "low", "high"))  # type: ignore[return-value]


def _color(model: str) -> str:
    return {"base": BASE, "tuned": TUNED}[model]


def _curve(points: Sequence[tuple[float, float]], model: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f"<polyline points='{path}' fill='none' stroke='{_color(model)}' stroke-width='2'/>"


def _frame(side: float) -> str:
    return f"<rect width='{side}' height='{side}' class='frame'/>"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' class='{kind}'/>"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{html.escape(text)}</text>"


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"


def _svg(width: float, height: float, described: str, parts: Iterable[str], pad: float = 0) -> str:
    box = f"{-pad} {-pad} {width + 2 * pad} {height + pad}"
    label = html.escape(described, quote=True)
    return (
        f"<svg viewBox='{box}' width='{width + 2 * pad:.0f}' role='img' aria-label=\"{label}\">"
        f"{''.join(parts)}</svg>"
    )
