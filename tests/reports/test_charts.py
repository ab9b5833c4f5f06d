"""Charts: what is drawn, and what a screen reader says."""

from xml.etree.ElementTree import Element

import pytest

from segtune.evaluation.bootstrap import Interval
from segtune.evaluation.calibration import Bin
from segtune.evaluation.learning_curve import CurvePoint, Extrapolation
from segtune.reports.evaluation_charts import forest, precision_recall, reliability
from segtune.reports.learning_curve_chart import learning_curve
from segtune.reports.loss_chart import loss_curve
from segtune.reports.strength_chart import strength_chart
from tests.strength_curves import strength_curve


def classes(svg: Element, tag: str) -> list[str | None]:
    return [element.get("class") for element in svg.iter(tag)]


def texts(svg: Element) -> list[str | None]:
    return [element.text for element in svg.iter("text")]


def test_a_forest_has_a_line_for_each_difference_that_is_known() -> None:
    svg = forest(
        {
            "<b>a very long name of a class": Interval(0.5, 0.25, 1.0),
            "nothing": Interval(None, None, None),
            "less": Interval(-0.5, -1.0, 0.0),
        }
    )
    assert svg.get("aria-label") == (
        "Differences: <b>a very long name of a class +0.500 (+0.250 to +1.000); "
        "less -0.500 (-1.000 to +0.000)"
    )
    assert classes(svg, "circle") == ["dot tuned"] * 2
    lines = [line for line in svg.iter("line") if line.get("class") == "interval"]
    ends = [(float(line.get("x1", "")), float(line.get("x2", ""))) for line in lines]
    assert ends == [(412.5, 570.0), (150.0, 360.0)]  # -1 is at 150, 0 at 360, 1 at 570
    assert texts(svg) == ["<b>a very long name…", "less", "-1.00", "0", "+1.00"]


@pytest.mark.parametrize("difference", [None, 0.0])
def test_a_forest_without_any_difference_is_drawn(difference: float | None) -> None:
    svg = forest({"all": Interval(difference, difference, difference)})
    assert texts(svg)[-3:] == ["-1.00", "0", "+1.00"]


def test_strengths_are_placed_by_retention_and_score() -> None:
    svg = strength_chart(
        strength_curve((0.0, 0.0, 1.0), (0.5, 0.5, 0.75), (1.0, 1.0, 0.5), score="cgF1"), 0.5
    )
    assert svg is not None
    dots = [(dot.get("cx"), dot.get("cy"), dot.get("class")) for dot in svg.iter("circle")]
    assert dots == [
        ("420.0", "220.0", "dot base"),
        ("315.0", "110.0", "dot tuned"),
        ("210.0", "0.0", "dot base"),
    ]
    assert texts(svg)[-3:] == ["0", "0.5", "1"]
    assert svg.get("aria-label") == (
        "cgF1 over retention: strength 0: score 0.000, retained 1.000; "
        "strength 0.5: score 0.500, retained 0.750; strength 1: score 1.000, retained 0.500"
    )


def test_without_retention_there_is_no_chart_of_strengths() -> None:
    assert strength_chart(strength_curve((0.0, 0.1, None), (1.0, 0.5, None)), 1.0) is None


def test_models_differ_by_more_than_color() -> None:
    bins = [Bin(count=4, score=0.25, precision=0.5)]
    for svg in (
        precision_recall({"base": [1.0, 0.5], "tuned": [1.0, 1.0]}, "cat"),
        reliability({"base": bins, "tuned": bins}),
    ):
        assert classes(svg, "polyline") == ["curve base", "curve tuned"]
    assert classes(svg, "circle") == ["dot base", "dot tuned"]
    dot = next(svg.iter("circle"))
    assert (dot.get("cx"), dot.get("cy")) == ("60.0", "120.0")


def test_a_model_without_a_curve_is_left_out() -> None:
    svg = precision_recall({"base": None, "tuned": [1.0, 0.5]}, "cat")
    (curve,) = svg.iter("polyline")
    assert curve.get("points") == "0.0,0.0 160.0,80.0"


def test_a_learning_curve_ends_with_what_is_expected() -> None:
    points = [CurvePoint(images=50, fitted=0.25, score=0.5)]
    svg = learning_curve(points, Extrapolation(images=100, fitted=0.75))
    assert svg.get("aria-label") == (
        "Scores from 0 to 1: 0.500 with 50 images; 0.750 expected with 100 images"
    )
    assert [c.get("cx") for c in svg.iter("circle")] == ["0.0", "420.0"]
    assert [c.get("cy") for c in svg.iter("circle")] == ["110.0", "55.0"]
    assert classes(svg, "circle") == ["dot tuned", "dot base"]


@pytest.mark.parametrize("losses", [[4.0, 1.0], [0.0]])
def test_a_loss_curve_goes_from_0_to_the_highest(losses: list[float]) -> None:
    (curve,) = loss_curve(losses).iter("polyline")
    heights = [float(point.split(",")[1]) for point in (curve.get("points") or "").split()]
    assert heights == ([0.0, 120.0] if len(losses) == 2 else [160.0])
