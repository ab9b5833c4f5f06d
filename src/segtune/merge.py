"""Merge a trained adapter into the base weights: one `sam3.pt` that stock SAM 3 loads.

A merged weight is the base's plus `strength` times its update, computed in float32 and stored in
the base's precision. Everything else in the file is bitwise identical to the base's.

The merge is verified before the file appears: on a random image, and on real ones with `--coco`,
the adapted model and the one that the written file gives must agree.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from segtune.core.atomic import atomic_path, write_json
from segtune.core.config import parse_section
from segtune.core.console import log_line
from segtune.core.errors import AdapterError, exit_on_error, printable
from segtune.core.fingerprints import file_digest
from segtune.core.merge_settings import MergeSettings
from segtune.core.publishing import published
from segtune.dataset.coco import read_split
from segtune.evaluation.strength_curve import chosen_point, read_strength_curve
from segtune.lora.adapter import DIGEST, FIX, WEIGHTS, attach_adapter
from segtune.lora.inject import merge_lora, remove_lora, set_strength, weight_updates
from segtune.lora.recipe import Ingredient, Recipe, read_base_recipe, require_same_base
from segtune.model.architecture import ARCHITECTURES
from segtune.model.mapped_weights import forget_weights, load_mapped, map_weights, tensors_of
from segtune.model.official_format import read_official, require_fitting
from segtune.model.parity import (
    Differences,
    ParityInput,
    compare,
    inputs_of,
    largest,
    outputs_on,
    random_input,
)
from segtune.model.recognition import base_model_name
from segtune.model.sam3_package import Sam3Image
from segtune.model.updated_file import Updates, write_updated
from segtune.model.weight_files import SAM3, SAM31
from segtune.model.weights import checkpoint, weights_digest

VALID_IMAGES = 2  # on which the models are compared


def main(argv: Sequence[str] | None = None) -> None:
    """Write `sam3.pt`, `parity.json` and the model card, on the CPU."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("merge"), published(arguments.out) as folder:
        settings = parse_section(MergeSettings, arguments.settings)
        strength = _strength(settings, arguments.strengths)
        recipe = read_base_recipe(arguments.adapter)
        if recipe:
            base = arguments.model, arguments.weights
            digest = weights_digest(*base) if recipe.weights_sha256 else None
            require_same_base(recipe, (*base, digest), arguments.adapter)
        inputs = _parity_inputs(arguments)
        with checkpoint(arguments.model, arguments.weights, folder) as base_file:
            model = load_mapped(arguments.model, base_file)
            attach_adapter(model, arguments.adapter)
            # As in the recipe, to tell which training was merged.
            adapter = file_digest(arguments.adapter / WEIGHTS, AdapterError, FIX)
            set_strength(model, strength)
            parity = _merge(
                model,
                base_file,
                folder / "sam3.pt",
                inputs=inputs,
                strength=strength,
                tolerance=settings.tolerance,
            )
        write_json(folder / "parity.json", {**parity, DIGEST: adapter})
        # The license reaches its place first: files are moved there by name, capitals first.
        name = base_model_name(model, arguments.model)
        card = _model_card(arguments, recipe, base=name, strength=strength)
        with atomic_path(folder / "MODEL_CARD.md") as temporary:
            temporary.write_text(card, "utf-8")
    worst = largest(parity["adapted_vs_merged"])
    log_line(f"merged; adapted and merged outputs differ by at most {worst:.1e} (relative)")


def _strength(settings: MergeSettings, strengths: Path | None) -> float:
    """The strength that was set, or the one that is chosen among those that were compared."""
    if settings.strength != "auto":
        return settings.strength
    if strengths is None:
        log_line("without --strengths to choose from, the whole update is merged: strength 1")
        return 1.0
    curve = read_strength_curve(strengths)
    point = chosen_point(curve, settings.retain)
    score, retained = (
        "-" if value is None else f"{value:.4f}"
        for value in (point.score.value, point.retained.value)
    )
    log_line(
        f"chose strength {point.strength:g}: {curve.score} {score} on valid, retained {retained} "
        f"(merge.retain: {settings.retain:g})"
    )
    if point.retained.value is not None and point.retained.value < settings.retain:
        log_line("WARNING: no strength retains as much as merge.retain; this one retains the most")
    return point.strength


def _parity_inputs(arguments: argparse.Namespace) -> list[ParityInput]:
    image_size = ARCHITECTURES[arguments.model].image_size
    inputs = [random_input(image_size)]
    if arguments.coco:
        inputs += inputs_of(read_split(arguments.coco), image_size, VALID_IMAGES)
    return inputs


def _merge(
    model: Sam3Image,
    base: Path,
    path: Path,
    *,
    inputs: Sequence[ParityInput],
    strength: float,
    tolerance: float,
) -> dict[str, Any]:
    """Write the merged weights, and load them into the model; returns what was compared."""
    adapted = outputs_on(model, inputs, partial(map_weights, model, base))
    # Not even a sum with zero: it would change the sign of a negative zero.
    updates = weight_updates(model) if strength else {}
    merged = None
    if _are_rounded(updates, base):
        # Rounding is not an error of merging, but it may exceed the tolerance.
        merge_lora(model)
        merged = outputs_on(model, inputs)
    identical = write_updated(path, base, updates)
    _load_written(model, path)
    stored = outputs_on(model, inputs, partial(map_weights, model, path))
    adapted_vs_merged = compare(adapted, merged or stored)
    _require_parity(adapted_vs_merged, tolerance)
    rounding = compare(merged or stored, stored)
    _require_parity(rounding, sys.float_info.max)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "strength": strength,
        "tolerance": tolerance,
        "images": [one.name for one in inputs],
        "adapted_vs_merged": adapted_vs_merged,
        "rounding": rounding,
        "keys": identical + len(updates),
        "keys_identical_to_base": identical,
        "sha256": sha256,
    }


def _are_rounded(updates: Updates, base: Path) -> bool:
    """Whether any weight has less precision than its update."""
    return any(weight.element_size() < 4 for weight in tensors_of(base, updates).values())


def _load_written(model: Sam3Image, path: Path) -> None:
    """Load the merged weights strictly; its file's checksums are compared."""
    remove_lora(model)
    forget_weights(model)
    require_fitting(model, read_official(path).detector, path)
    map_weights(model, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.merge", description=__doc__)
    parser.add_argument("--adapter", type=Path, required=True, help="as results/train/adapter")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="tiny")
    parser.add_argument("--weights", default="default", help="see config.yaml")
    parser.add_argument(
        "--coco",
        type=Path,
        help=f"a converted split; adapted and merged model are also compared on {VALID_IMAGES} of "
        "its images",
    )
    parser.add_argument("--strengths", type=Path, help="strength.json, for auto; without it, 1")
    parser.add_argument("--settings", default="{}", help="the merge section, as JSON")
    return parser


def _require_parity(compared: Differences, tolerance: float) -> None:
    for name, difference in compared.items():
        # Written so that NaN fails too.
        if not difference["relative"] <= tolerance:
            raise AdapterError(
                f"after merging, {name} differs by {difference['relative']:.2e} (relative), "
                f"more than {tolerance:.0e}",
                fix="Please report this as a bug; the limit is the setting merge.tolerance",
            )


def _history_of(recipe: Recipe | None) -> str:
    if recipe is None:
        return "- LoRA adapters trained with PEFT, merged\n"
    trainings = "".join(_training(one, of_soup=recipe.is_soup) for one in recipe.soup)
    return (
        f"{trainings}- Sees {recipe.what_is_seen}\n"
        f"- LoRA on {len(recipe.adapted)} modules, merged; segtune {printable(recipe.segtune)}\n"
    )


def _training(one: Ingredient, of_soup: bool) -> str:
    result, image_size = one.result, one.image_size
    return (
        (f"- {one.weight:g} times the update of a training: " if of_soup else "- ")
        + f"{printable(one.settings['select_by'])} on the valid split: {result.best_score:.4f} "
        f"after epoch {result.best_epoch}; {result.base_score:.4f} before training\n"
        + (f"- Trained on images of {image_size} pixels, not 1008\n" if image_size else "")
    )


def _how_to_load(base: str) -> str:
    if base == SAM31.repository:
        return (
            '- Load it with `build_sam3_image_model(checkpoint_path="sam3.pt")`, which prints that '
            "`convs.3` is missing; SAM 3.1 has none, and what it makes is discarded"
        )
    if base != SAM3.repository:
        return "- A miniature of SAM 3, which the stock `build_sam3_image_model` cannot load"
    return '- Load it with `build_sam3_image_model(checkpoint_path="sam3.pt")`'


def _model_card(
    arguments: argparse.Namespace, recipe: Recipe | None, *, base: str, strength: float
) -> str:
    license = distribution("sam3").read_text("licenses/LICENSE")
    return (
        "# SAM 3, fine-tuned with segtune\n\n"
        f"- Base: {base} (`{arguments.model}`, weights `{arguments.weights}`)\n"
        f"{_history_of(recipe)}"
        f"- Strength {strength:g}: 0 is the base, 1 what was trained\n"
        f"{_how_to_load(base)}\n\n"
        "SAM 3 and its derivatives are under the SAM License, which must accompany "
        f"these weights:\n\n{license}\n"
    )


if __name__ == "__main__":
    main()
