"""Charts of an evaluation: differences with intervals, precision over recall, reliability."""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from segtune.evaluation.bootstrap import Interval
from segtune.evaluation.calibration import Bin
from segtune.reports.svg import add_curve, add_dot, add_frame, add_line, add_text, new_svg

MAX_NAME = 20  # characters of a class's name beside a plot


def forest(rows: Mapping[str, Interval]) -> Element:
    """Differences with their intervals, one line each, around zero.

    Args:
        rows: by name; what cannot be measured is left out.
    """
    known = {name: _ends(row) for name, row in rows.items() if row.difference is not None}
    reach = max((abs(value) for row in known.values() for value in row), default=1.0) or 1.0
    label, plot, line = 150, 420, 26
    middle = label + plot / 2
    height = line * len(known) + 24
    description = "; ".join(
        f"{name} {at:+.3f} ({low:+.3f} to {high:+.3f})" for name, (at, low, high) in known.items()
    )
    svg = new_svg(label + plot + 30, height, f"Differences: {description}")
    add_line(svg, (middle, 0), (middle, height - 20), "axis")
    for number, (name, row) in enumerate(known.items()):
        y = line * number + line / 2
        at, low, high = (middle + value / reach * plot / 2 for value in row)
        add_text(svg, (label - 8, y + 4), _short(name), "end")
        add_line(svg, (low, y), (high, y), "interval")
        add_dot(svg, (at, y), "tuned", radius=5)
    for value in (-reach, 0.0, reach):
        x = middle + value / reach * plot / 2
        add_text(svg, (x, height - 4), f"{value:+.2f}" if value else "0", "middle")
    return svg


def precision_recall(curves: Mapping[str, Sequence[float] | None], name: str) -> Element:
    """Precision over recall in equal steps.

    Args:
        curves: "base" and "tuned" -> precisions, or None.
        name: of the class.
    """
    side = 160
    svg = new_svg(side, side + 20, f"Precision over recall of {name}", pad=14)
    add_frame(svg, side, side)
    for model, values in curves.items():
        if values:
            steps = len(values) - 1
            points = [(side * n / steps, side * (1 - v)) for n, v in enumerate(values)]
            add_curve(svg, points, model)
    add_text(svg, (side / 2, side + 16), "recall", "middle")
    add_text(svg, (0, -4), "precision", "start")
    return svg


def reliability(bins: Mapping[str, Sequence[Bin]]) -> Element:
    """Precision over score; on the diagonal, a score is the probability of being correct.

    Args:
        bins: "base" and "tuned" -> detections with similar scores.
    """
    side = 240
    svg = new_svg(side, side + 20, "Precision of detections over their score", pad=14)
    add_frame(svg, side, side)
    add_line(svg, (0, side), (side, 0), "axis")
    for model, found in bins.items():
        points = [(side * b.score, side * (1 - b.precision)) for b in found]
        add_curve(svg, points, model)
        for point in points:
            add_dot(svg, point, model, radius=3.5)
    add_text(svg, (side / 2, side + 16), "score", "middle")
    add_text(svg, (0, -4), "precision", "start")
    return svg


def _ends(row: Interval) -> tuple[float, float, float]:
    return row.difference or 0.0, row.low or 0.0, row.high or 0.0


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"
