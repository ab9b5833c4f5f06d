"""Extrapolate to more data, from training runs on fractions of the training split.

Each run's score is that of its best checkpoint on the valid split.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import FiniteFloat

from segtune.core.console import log_line
from segtune.core.errors import ConfigError, exit_on_error
from segtune.core.typed_json import read_typed, write_typed
from segtune.dataset.coco import read_split
from segtune.evaluation.learning_curve import fit_learning_curve


def main(argv: Sequence[str] | None = None) -> None:
    """Write `learning_curve.json`."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("learning_curve"):
        metrics, scores = zip(
            *(_best_score(adapter / "recipe.json") for _, adapter in arguments.run), strict=True
        )
        images = [len(read_split(coco / "train.json").images) for coco, _ in arguments.run]
        if len(set(images)) < 2:
            raise ConfigError(
                "a curve needs training runs on different numbers of images",
                fix="Add images to the training split",
            )
        curve = fit_learning_curve(metrics[0], images, scores)
        write_typed(arguments.out / "learning_curve.json", curve)
        log_line(curve.verdict.sentence)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.learning_curve", description=__doc__)
    parser.add_argument(
        "--run",
        type=Path,
        nargs=2,
        action="append",
        required=True,
        metavar=("COCO", "ADAPTER"),
        help="folders of a training run's data and of its adapter; once per run",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    return parser


@dataclass(frozen=True)
class _Settings:
    select_by: str


@dataclass(frozen=True)
class _Result:
    best_score: FiniteFloat


@dataclass(frozen=True)
class _Recipe:
    """The part of a training run's `recipe.json` that the curve needs."""

    settings: _Settings
    result: _Result


def _best_score(path: Path) -> tuple[str, float]:
    """Name and value of a training run's best score on valid."""
    recipe = read_typed(path, _Recipe, fix="Run segtune.train again")
    return recipe.settings.select_by, recipe.result.best_score


if __name__ == "__main__":
    main()
