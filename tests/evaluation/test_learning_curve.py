"""The power law through the scores, and the verdict on more data."""

import pytest

from segtune.evaluation.learning_curve import fit_learning_curve


def test_a_power_law_is_found_again() -> None:
    counts = [50, 100, 200]
    found = fit_learning_curve("AP", counts, [1 - 2.0 * n**-0.4 for n in counts])
    assert found.doubled.images == 400
    assert found.doubled.fitted == pytest.approx(1 - 2.0 * 400**-0.4)
    assert found.gain == pytest.approx(2.0 * (200**-0.4 - 400**-0.4))
    assert found.spread == pytest.approx(0.0, abs=1e-9)
    assert found.verdict.sentence.startswith("more data would help: 400 images instead of 200")


@pytest.mark.parametrize(
    ("scores", "outcome"),
    [
        ([0.70, 0.702, 0.703], "little gain"),
        ([0.9, 0.8, 0.7], "little gain"),
        ([0.699, 0.7, 0.701], "little gain"),
        ([0.3, 0.7, 0.4], "undecided"),
        ([0.3, 0.6, 0.3], "undecided"),
        ([0.99, 1.0, 1.0], "little gain"),
        ([0.2, 0.3, 0.4], "helps"),
    ],
)
def test_the_verdict_follows_from_the_points(scores: list[float], outcome: str) -> None:
    verdict = fit_learning_curve("AP", [50, 100, 200], scores).verdict
    assert verdict.outcome == outcome
    sentences = {
        "little gain": "more data of this kind would help little: ",
        "undecided": "undecided: ",
        "helps": "more data would help: ",
    }
    assert verdict.sentence.startswith(sentences[outcome])


def test_the_order_of_the_training_runs_does_not_matter() -> None:
    assert fit_learning_curve("AP", [200, 50, 100], [0.4, 0.2, 0.3]) == fit_learning_curve(
        "AP", [50, 100, 200], [0.2, 0.3, 0.4]
    )
