"""Merge a trained adapter into the base weights: one `sam3.pt` that stock SAM 3 loads.

The merge is verified before the file appears: on a random input the adapted and the merged
model must agree, and the written file, loaded strictly, must give outputs that are bitwise
identical to those of the merged model.
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
from pydantic import FiniteFloat, TypeAdapter, ValidationError
from torch import Tensor

from segtune.core.atomic import atomic_path, write_json
from segtune.core.config import MergeSettings, parse_section
from segtune.core.console import log_line
from segtune.core.errors import AdapterError, WeightsError, exit_on_error, printable, shown
from segtune.core.fingerprints import file_digest
from segtune.core.publishing import published
from segtune.lora.adapter import RECIPE, attach_adapter, read_recipe
from segtune.lora.inject import merge_lora
from segtune.model.architecture import ARCHITECTURES
from segtune.model.forward import detect_encoded, encode_images, encode_prompts, evaluating
from segtune.model.official_format import (
    OfficialWeights,
    is_finite,
    load_strictly,
    read_official,
    write_official,
)
from segtune.model.recognition import base_model_name
from segtune.model.sam3_package import Sam3Image
from segtune.model.weight_files import SAM3, SAM31, weights_file
from segtune.model.weights import load_base_model, official_file

COMPARED = ("pred_logits", "pred_boxes", "pred_masks", "presence_logit_dec")
Outputs = dict[str, Tensor]


def main(argv: Sequence[str] | None = None) -> None:
    """Write `sam3.pt`, `parity.json` and the model card, on the CPU."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("merge"), published(arguments.out) as folder:
        settings = parse_section(MergeSettings, arguments.settings)
        recipe = _read_recipe(arguments.adapter)
        _require_same_base(recipe, arguments)
        model = load_base_model(arguments.model, arguments.weights)
        attach_adapter(model, arguments.adapter)
        parity = _merge(model, folder / "sam3.pt", arguments, tolerance=settings.tolerance)
        write_json(folder / "parity.json", parity)
        # The license reaches its place first: files are moved there by name, capitals first.
        base = base_model_name(model, arguments.model)
        _write_model_card(folder / "MODEL_CARD.md", arguments, recipe, base=base)
    worst = max(item["relative"] for item in parity["adapted_vs_merged"].values())
    log_line(f"merged; adapted and merged outputs differ by at most {worst:.1e} (relative)")


def _merge(
    model: Sam3Image, path: Path, arguments: argparse.Namespace, *, tolerance: float
) -> dict[str, Any]:
    """Merge the adapters and write the weights; returns what was compared."""
    image_size = ARCHITECTURES[arguments.model].image_size
    adapted = outputs_on_random_input(model, image_size)
    merge_lora(model)
    _require_finite(model, arguments.adapter)
    merged = outputs_on_random_input(model, image_size)
    adapted_vs_merged = _compare(adapted, merged)
    _require_parity(adapted_vs_merged, tolerance)
    keys = _write(path, model, arguments)
    reloaded_vs_merged = _compare(merged, outputs_on_random_input(model, image_size))
    _require_parity(reloaded_vs_merged, 0.0)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "tolerance": tolerance,
        "adapted_vs_merged": adapted_vs_merged,
        "reloaded_vs_merged": reloaded_vs_merged,
        "keys": keys,
        "sha256": sha256,
    }


def outputs_on_random_input(model: Sam3Image, image_size: int) -> Outputs:
    """A model's outputs for two prompts on one random image, the same every time."""
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 3, image_size, image_size), generator=noise).byte()
    with evaluating(model), torch.inference_mode():
        text = encode_prompts(model, ["a thing", "something else"], image.device)
        features = {**encode_images(model, image), **text}
        outputs = detect_encoded(
            model,
            features,
            image_ids=torch.zeros(2, dtype=torch.long),
            text_ids=torch.arange(2),
        )
    return {name: outputs[name].clone() for name in COMPARED}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.merge", description=__doc__)
    parser.add_argument("--adapter", type=Path, required=True, help="as results/train/adapter")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="tiny")
    parser.add_argument("--weights", default="default", help="see config.yaml")
    parser.add_argument("--settings", default="{}", help="the merge section, as JSON")
    return parser


@dataclass(frozen=True)
class _Result:
    best_score: FiniteFloat
    best_epoch: int
    base_score: FiniteFloat


@dataclass(frozen=True)
class _TrainSettings:
    select_by: str


@dataclass(frozen=True)
class _Recipe:
    """The part of `recipe.json` that concerns the base and the model card."""

    segtune: str
    model: str
    weights: str
    image_size: int | None
    settings: _TrainSettings
    result: _Result
    adapted: dict[str, Any]
    weights_sha256: str | None = None  # of a file


def _read_recipe(adapter: Path) -> _Recipe | None:
    """The recipe of an adapter; None for an adapter of PEFT, which names no base to compare."""
    values = read_recipe(adapter)
    try:
        return None if values is None else TypeAdapter(_Recipe).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise AdapterError(
            f"not the recipe of an adapter ({first['msg']})",
            file=adapter / RECIPE,
            record=".".join(map(str, first["loc"])) or None,
            fix="Run the training again",
        ) from None


def _require_same_base(recipe: _Recipe | None, arguments: argparse.Namespace) -> None:
    if recipe is None:
        return
    same = (recipe.model, recipe.weights) == (arguments.model, arguments.weights)
    file = weights_file(arguments.model, arguments.weights)
    if recipe.weights_sha256 and file:
        # The content counts: a file may have been moved, or another one put in its place.
        digest = file_digest(file, WeightsError, "Check `weights`")
        same = (recipe.model, recipe.weights_sha256) == (arguments.model, digest)
    if not same:
        raise AdapterError(
            f"trained on model {shown(recipe.model)} with weights {shown(recipe.weights)}, but "
            f"merged into {arguments.model!r} with {arguments.weights!r}"
            + (", whose content is another" if recipe.weights == arguments.weights else ""),
            file=arguments.adapter,
            fix="Set `model` and `weights` to those that the adapter was trained with",
        )


def _require_finite(model: Sam3Image, adapter: Path) -> None:
    for name, tensor in model.state_dict().items():
        if not is_finite(tensor):
            raise AdapterError(
                f"after merging, {name} has NaN or infinity",
                file=adapter,
                fix="Run the training again",
            )


def _compare(one: Outputs, other: Outputs) -> dict[str, dict[str, float]]:
    """Per output the largest difference, absolute and relative to the largest value."""
    compared = {}
    for name, value in one.items():
        difference = (value - other[name]).abs().max().item()
        compared[name] = {
            "absolute": difference,
            "relative": difference / max(value.abs().max().item(), 1e-12),
        }
    return compared


def _require_parity(compared: dict[str, dict[str, float]], tolerance: float) -> None:
    for name, difference in compared.items():
        # Written so that NaN fails too.
        if not difference["relative"] <= tolerance:
            raise AdapterError(
                f"after merging, {name} differs by {difference['relative']:.2e} (relative), "
                f"more than {tolerance:.0e}",
                fix="Please report this as a bug; the limit is the setting merge.tolerance",
            )


def _write(path: Path, model: Sam3Image, arguments: argparse.Namespace) -> int:
    """Write the merged weights and load them back strictly; returns the number of keys."""
    base = official_file(arguments.model, arguments.weights)
    # segtune does not use the tensors of the video tracker, but other users of the file may.
    original = read_official(base) if base else OfficialWeights({}, {})
    detector = _with_originals(model.state_dict(), original.detector)
    write_official(path, detector, original.rest, nested=original.nested)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # so that a key that is not loaded shows in the outputs
    load_strictly(model, read_official(path).detector, path)
    return len(detector) + len(original.rest)


def _with_originals(
    merged: Mapping[str, Tensor], original: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors that merging has changed, and the others as the base's file has them."""
    return {
        key: original[key]
        if key in original and torch.equal(original[key].to(value.dtype), value)
        else value
        for key, value in merged.items()
    }


def _history_of(recipe: _Recipe | None) -> str:
    if recipe is None:
        return "- LoRA adapters trained with PEFT, merged\n"
    result, image_size = recipe.result, recipe.image_size
    return (
        f"- {printable(recipe.settings.select_by)} on the valid split: {result.best_score:.4f} "
        f"after epoch {result.best_epoch}; {result.base_score:.4f} before training\n"
        f"- LoRA on {len(recipe.adapted)} modules, merged; segtune {printable(recipe.segtune)}\n"
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


def _write_model_card(
    path: Path, arguments: argparse.Namespace, recipe: _Recipe | None, *, base: str
) -> None:
    license = distribution("sam3").read_text("licenses/LICENSE")
    with atomic_path(path) as temporary:
        temporary.write_text(
            "# SAM 3, fine-tuned with segtune\n\n"
            f"- Base: {base} (`{arguments.model}`, weights `{arguments.weights}`)\n"
            f"{_history_of(recipe)}"
            f"{_how_to_load(base)}\n\n"
            "SAM 3 and its derivatives are under the SAM License, which must accompany "
            f"these weights:\n\n{license}\n",
            "utf-8",
        )


if __name__ == "__main__":
    main()
