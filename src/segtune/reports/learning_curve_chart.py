"""The chart of a learning curve."""

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from segtune.evaluation.learning_curve import CurvePoint, Extrapolation
from segtune.reports.svg import Point, add_curve, add_dot, add_frame, add_text, new_svg


def learning_curve(points: Sequence[CurvePoint], doubled: Extrapolation) -> Element:
    """Scores over the number of images on a logarithmic axis, and the power law.

    Args:
        points: from few images to many.
        doubled: beyond the points.
    """
    width, height = 420, 220
    first, last = math.log(points[0].images), math.log(doubled.images)

    def place(images: int, score: float) -> Point:
        return width * (math.log(images) - first) / (last - first), height * (1 - score)

    description = ", ".join(f"{p.score:.3f} with {p.images} images" for p in points)
    expected = f"{doubled.fitted:.3f} expected with {doubled.images} images"
    svg = new_svg(width, height + 20, f"Scores from 0 to 1: {description}; {expected}", pad=20)
    add_frame(svg, width, height)
    add_text(svg, (-6, 12), "1", "end")
    add_text(svg, (-6, height), "0", "end")
    add_curve(svg, [place(p.images, p.fitted) for p in [*points, doubled]], "base")
    for point in points:
        add_dot(svg, place(point.images, point.score), "tuned", radius=5)
    add_dot(svg, place(doubled.images, doubled.fitted), "base", radius=5)
    for images in [*(p.images for p in points), doubled.images]:
        add_text(svg, (place(images, 0)[0], height + 16), str(images), "middle")
    return svg
