"""Combine the adapters of several trainings into one, by a weighted sum of their updates.

The mean, without `--weights-of`. All must have been trained on the same base model; `segtune.merge`
then merges the result like any other adapter.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any

from segtune import __version__
from segtune.core.console import log_line
from segtune.core.errors import AdapterError, ConfigError, exit_on_error
from segtune.core.publishing import published
from segtune.lora.adapter import attach_adapter, save_adapter, specs_from_json
from segtune.lora.inject import lora_parameters, remove_lora
from segtune.lora.recipe import Recipe, read_base_recipe, require_same_base
from segtune.lora.soup import Part, weighted_sum
from segtune.model.architecture import ARCHITECTURES
from segtune.model.mapped_weights import unloaded_model
from segtune.model.recognition import base_model_name
from segtune.model.sam3_package import Sam3Image


def main(argv: Sequence[str] | None = None) -> None:
    """Write an adapter: PEFT's two files, and a recipe that names what it was made of."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("soup"), published(arguments.out) as folder:
        weights = _weights(arguments)
        recipes = [_recipe(adapter) for adapter in arguments.adapters]
        first = recipes[0]
        for recipe, adapter in zip(recipes, arguments.adapters, strict=True):
            base = first.model, first.weights, first.weights_sha256
            require_same_base(recipe, base, adapter)
        model = unloaded_model(_architecture(first, arguments.adapters[0]))
        specs, state = weighted_sum(model, list(_parts(model, arguments.adapters, weights)))
        save_adapter(
            folder,
            state,
            specs=specs,
            base_model=first.base_model or base_model_name(model, first.model),
            recipe=_new_recipe(recipes, weights),
        )
    log_line(f"the sum of {len(recipes)} adapters, times {', '.join(f'{w:g}' for w in weights)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.soup", description=__doc__)
    parser.add_argument(
        "--adapters", type=Path, nargs="+", required=True, help="folders, as results/train/adapter"
    )
    parser.add_argument(
        "--weights-of",
        type=float,
        nargs="+",
        help="by which each update is multiplied, in the same order; default: the mean",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapter")
    return parser


def _weights(arguments: argparse.Namespace) -> list[float]:
    count = len(arguments.adapters)
    weights: list[float] = arguments.weights_of or [1 / count] * count
    if len(weights) != count:
        raise ConfigError(
            f"{len(weights)} weights for {count} adapters",
            file="--weights-of",
            fix="Give one number for each adapter, in the same order",
        )
    if not all(isfinite(weight) and weight for weight in weights):
        raise ConfigError(
            "a weight is zero, or not a finite number",
            file="--weights-of",
            fix="Leave an adapter out instead of giving it the weight 0",
        )
    return weights


def _recipe(adapter: Path) -> Recipe:
    recipe = read_base_recipe(adapter)
    if recipe is None:
        raise AdapterError(
            "has no recipe.json, which names the base model",
            file=adapter,
            fix="Combine adapters that segtune has trained",
        )
    return recipe


def _architecture(recipe: Recipe, adapter: Path) -> str:
    if recipe.model not in ARCHITECTURES:
        raise AdapterError(
            f"the recipe names no model of {sorted(ARCHITECTURES)}",
            file=adapter,
            fix="Run the training again",
        )
    return recipe.model


def _parts(model: Sam3Image, adapters: Sequence[Path], weights: Sequence[float]) -> Iterator[Part]:
    for adapter, weight in zip(adapters, weights, strict=True):
        recipe = attach_adapter(model, adapter)
        assert recipe is not None  # it has been read before
        parameters = {name: p.detach() for name, p in lora_parameters(model).items()}
        remove_lora(model)
        yield Part(specs_from_json(recipe["adapted"]), parameters, weight)


def _new_recipe(recipes: Sequence[Recipe], weights: Sequence[float]) -> dict[str, Any]:
    first = recipes[0]
    tiles = {recipe.tiles for recipe in recipes}
    return {
        "segtune": __version__,
        "base_model": first.base_model,
        "model": first.model,
        "weights": first.weights,
        "weights_sha256": first.weights_sha256,
        "tiles": first.tiles.model_dump() if first.tiles and len(tiles) == 1 else None,
        "soup": [
            asdict(replace(one, weight=weight * one.weight))
            for recipe, weight in zip(recipes, weights, strict=True)
            for one in recipe.soup
        ],
    }


if __name__ == "__main__":
    main()
