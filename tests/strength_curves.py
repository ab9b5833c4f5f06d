"""Strengths that were compared, made by hand."""

from segtune.evaluation.strength_curve import Estimate, StrengthCurve, StrengthPoint


def strength_curve(
    *points: tuple[float, float | None, float | None], score: str = "mask AP"
) -> StrengthCurve:
    """Of (strength, score, retained), with intervals of no width."""
    return StrengthCurve(
        score=score,
        images=4,
        generic_images=4,
        prompts=("circle",),
        base_detections=9,
        points=tuple(
            StrengthPoint(s, Estimate(value, value, value), Estimate(kept, kept, kept))
            for s, value, kept in points
        ),
    )
