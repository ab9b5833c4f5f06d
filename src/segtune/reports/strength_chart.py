"""The chart of strengths: what is learned over what is retained."""

from xml.etree.ElementTree import Element

from segtune.evaluation.strength_curve import StrengthCurve
from segtune.reports.svg import (
    Point,
    add_curve,
    add_dot,
    add_frame,
    add_line,
    add_text,
    new_svg,
)


def strength_chart(curve: StrengthCurve, merged: float) -> Element | None:
    """Scores over retention, both from 0 to 1, with their intervals; None if neither is known.

    Args:
        curve: scores by strength.
        merged: the strength of the fine-tuned model, whose dot is filled.
    """
    width, height = 420, 220
    known = [p for p in curve.points if p.score.value is not None and p.retained.value is not None]
    if not known:
        return None

    def place(retained: float | None, score: float | None) -> Point:
        return width * (retained or 0.0), height * (1 - (score or 0.0))

    description = "; ".join(
        f"strength {p.strength:g}: score {p.score.value:.3f}, retained {p.retained.value:.3f}"
        for p in known
    )
    svg = new_svg(width, height + 20, f"{curve.score} over retention: {description}", pad=24)
    add_frame(svg, width, height)
    for end in (0.0, 1.0):
        add_text(svg, (-6, height * (1 - end) + (12 if end else 0)), f"{end:g}", "end")
        add_text(svg, (width * end, height + 16), f"{end:.0%}", "middle")
    add_text(svg, (width / 2, height + 16), "retained", "middle")
    add_text(svg, (0, -6), f"{curve.score} on valid", "start")
    for point in known:
        score, retained = point.score, point.retained
        add_line(svg, place(retained.value, score.low), place(retained.value, score.high), "spread")
        add_line(svg, place(retained.low, score.value), place(retained.high, score.value), "spread")
    add_curve(svg, [place(p.retained.value, p.score.value) for p in known], "tuned")
    for point in known:
        x, y = place(point.retained.value, point.score.value)
        add_dot(svg, (x, y), "tuned" if point.strength == merged else "base", radius=5)
        add_text(svg, (x + 7, y - 7), f"{point.strength:g}", "start")
    return svg
