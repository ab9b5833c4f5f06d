"""The files of a run that an export is made of, and the command line that names them."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

from segtune.model.architecture import ARCHITECTURES


@dataclass(frozen=True)
class Sources:
    """The files of a run that an export is made of."""

    weights: Path
    parity: Path  # beside the weights
    adapter: Path  # a folder
    metrics: Path
    coco: Path  # a converted split, which has the classes and their prompts


def export_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """The command line of an export: `Sources`, the model, its input size and where to write."""
    parser = argparse.ArgumentParser(prog=f"segtune.{command}", description=description)
    parser.add_argument("--weights", type=Path, required=True, help="sam3.pt of segtune.merge")
    parser.add_argument("--parity", type=Path, required=True, help="parity.json of segtune.merge")
    parser.add_argument("--adapter", type=Path, required=True, help="as results/train/adapter")
    parser.add_argument("--metrics", type=Path, required=True, help="metrics.json of evaluate")
    parser.add_argument("--coco", type=Path, required=True, help="a split, for its prompts")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="tiny")
    parser.add_argument("--image-size", type=int, help="side of the input, in pixels")
    return parser


def sources_of(arguments: argparse.Namespace) -> Sources:
    """What the arguments of `export_parser` name."""
    return Sources(**{field.name: getattr(arguments, field.name) for field in fields(Sources)})
