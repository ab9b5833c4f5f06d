"""The page of a learning curve."""

from pathlib import Path

from segtune.evaluation.learning_curve import CurveOutcome, LearningCurve
from segtune.reports.learning_curve_chart import learning_curve
from segtune.reports.page import write_page

STATUS = {
    CurveOutcome.HELPS: "More data helps",
    CurveOutcome.LITTLE_GAIN: "Little to gain",
    CurveOutcome.UNDECIDED: "Undecided",
}


def write_learning_curve_page(path: Path, curve: LearningCurve) -> None:
    """Write the page of a curve."""
    write_page(
        path,
        "learning_curve_page.html.j2",
        tone="good" if curve.verdict.outcome is CurveOutcome.HELPS else "neutral",
        status=STATUS[curve.verdict.outcome],
        heading=curve.verdict.sentence,
        curve=curve,
        chart=learning_curve(curve.points, curve.doubled),
    )
