"""Charts of a dataset: a histogram, with a row of bars for each split."""

from xml.etree.ElementTree import Element, SubElement

from segtune.dataset.findings import Histogram
from segtune.reports.svg import add_line, add_text, new_svg

ROW, GAP, PLOT = 56, 14, 360  # pixels: height of a row, between rows, width of its bars
NAMES = 84  # pixels below the bars
LABEL = 44  # pixels to the left of the bars


def histogram_chart(histogram: Histogram) -> Element:
    """How often values of each range occur, as a fraction of the split's.

    The bars have the same scale in all splits, so that these can be compared.
    """
    totals = {split: sum(counts) or 1 for split, counts in histogram.counts.items()}
    most = max(
        (count / totals[split] for split, counts in histogram.counts.items() for count in counts),
        default=1.0,
    )
    bars_end = (ROW + GAP) * len(totals)
    height = bars_end + NAMES
    svg = new_svg(LABEL + PLOT + 8, height, f"{histogram.title}. The table below has the numbers.")
    step = PLOT / len(histogram.ranges)
    for row, (split, counts) in enumerate(histogram.counts.items()):
        bottom = (ROW + GAP) * (row + 1)
        add_text(svg, (LABEL - 6, bottom - 4), split, "end")
        add_line(svg, (LABEL, bottom), (LABEL + PLOT, bottom), "axis")
        for place, count in enumerate(counts):
            tall = ROW * count / totals[split] / (most or 1.0)
            _add_bar(svg, LABEL + step * place + 2, bottom - tall, step - 4, tall)
    for place, name in enumerate(histogram.ranges):
        x = LABEL + step * (place + 0.5)
        y = bars_end + 14
        add_text(svg, (x, y), name, "end")
        svg[-1].set("transform", f"rotate(-45 {x:.1f} {y:.1f})")
    return svg


def _add_bar(svg: Element, x: float, y: float, width: float, height: float) -> None:
    values = {"x": x, "y": y, "width": width, "height": height}
    rounded = {name: f"{value:.1f}" for name, value in values.items()}
    SubElement(svg, "rect", {"class": "bars", **rounded})
