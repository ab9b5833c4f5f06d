"""The page of a learning curve."""

from pathlib import Path

from segtune.evaluation.learning_curve import LearningCurve, Outcome
from segtune.reports.learning_curve_chart import learning_curve
from segtune.reports.page import write_page

STATUS = {
    Outcome.HELPS: "More data helps",
    Outcome.LITTLE_GAIN: "Little to gain",
    Outcome.UNDECIDED: "Undecided",
}


def write_learning_curve_page(path: Path, curve: LearningCurve) -> None:
    """Write the page of a curve."""
    write_page(
        path,
        "learning_curve_page.html.j2",
        tone="good" if curve.verdict.outcome is Outcome.HELPS else "neutral",
        status=STATUS[curve.verdict.outcome],
        heading=curve.verdict.sentence,
        curve=curve,
        chart=learning_curve(curve.points, curve.doubled),
    )
