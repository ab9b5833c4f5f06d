"""The chart of the training loss."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from segtune.reports.svg import add_curve, add_frame, add_text, new_svg


def loss_curve(losses: Sequence[float]) -> Element:
    """The loss of each optimizer step, from 0 to the highest."""
    width, height = 640, 160
    highest = max(losses) or 1.0
    ends = f"from {losses[0]:.3f} to {losses[-1]:.3f}"
    svg = new_svg(width, height + 20, f"Loss of {len(losses)} optimizer steps, {ends}", pad=14)
    add_frame(svg, width, height)
    points = [
        (width * (n + 0.5) / len(losses), height * (1 - loss / highest))
        for n, loss in enumerate(losses)
    ]
    add_curve(svg, points, "tuned")
    add_text(svg, (width - 4, 14), f"{highest:.3f}", "end")
    add_text(svg, (width - 4, height - 6), "0", "end")
    add_text(svg, (width / 2, height + 16), f"{len(losses)} optimizer steps", "middle")
    return svg
