"""Charts are SVG: no scripts, colors from the style sheet, a description for screen readers.

Whatever has the class `base` is zero-shot, `tuned` is fine-tuned.
"""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement

Point = tuple[float, float]  # x to the right and y downward, in pixels


def new_svg(width: float, height: float, description: str, pad: float = 0) -> Element:
    """An empty chart of this size in pixels, with what a screen reader says."""
    attributes = {
        "viewBox": f"{-pad} {-pad} {width + 2 * pad} {height + pad}",
        "width": f"{width + 2 * pad:.0f}",
        "role": "img",
        "aria-label": description,
    }
    return Element("svg", attributes)


def add_line(svg: Element, start: Point, end: Point, kind: str) -> None:
    """A line of a kind in the style sheet: axis or interval."""
    (x1, y1), (x2, y2) = start, end
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    SubElement(svg, "line", {"class": kind, **_rounded(ends)})


def add_text(svg: Element, at: Point, text: str, anchor: str) -> None:
    """Text that starts, has its middle or ends at a point."""
    place = _rounded({"x": at[0], "y": at[1]})
    SubElement(svg, "text", {**place, "text-anchor": anchor}).text = text


def add_dot(svg: Element, at: Point, model: str, *, radius: float) -> None:
    """A dot of a model; the radius is in pixels."""
    place = _rounded({"cx": at[0], "cy": at[1], "r": radius})
    SubElement(svg, "circle", {"class": f"dot {model}", **place})


def add_curve(svg: Element, points: Sequence[Point], model: str) -> None:
    """A line through points, of a model."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    SubElement(svg, "polyline", {"class": f"curve {model}", "points": path})


def add_frame(svg: Element, width: float, height: float) -> None:
    """The border of a plot of this size in pixels."""
    SubElement(svg, "rect", {"class": "frame", **_rounded({"width": width, "height": height})})


def _rounded(values: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.1f}" for name, value in values.items()}
