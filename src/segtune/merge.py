"""Merge a trained adapter into the base weights: one `sam3.pt` that stock SAM 3 loads.

The merge is verified before the file appears: on a random input the adapted and the merged
model must agree, and the written file, loaded strictly, must give outputs that are bitwise
identical to those of the merged model.
"""

import argparse
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtune.core.atomic import atomic_path, write_json
from segtune.core.config import MergeSettings, parse_section
from segtune.core.console import log_line
from segtune.core.errors import AdapterError, exit_on_error
from segtune.lora.adapter import attach_adapter
from segtune.lora.inject import merge_lora
from segtune.model.architecture import ARCHITECTURES
from segtune.model.forward import detect_encoded, encode_images, encode_prompts, evaluating
from segtune.model.official_format import load_strictly, read_official, write_official
from segtune.model.sam3_package import Sam3Image
from segtune.model.weights import load_base_model, official_file

COMPARED = ("pred_logits", "pred_boxes", "pred_masks", "presence_logit_dec")
Outputs = dict[str, Tensor]


def main(argv: Sequence[str] | None = None) -> None:
    """Write `sam3.pt`, `parity.json` and the model card, on the CPU."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("merge"):
        settings = parse_section(MergeSettings, arguments.settings)
        model = load_base_model(arguments.model, arguments.weights)
        recipe = attach_adapter(model, arguments.adapter)
        _require_same_base(recipe, arguments)
        image_size = ARCHITECTURES[arguments.model].image_size
        adapted = outputs_on_random_input(model, image_size)
        merge_lora(model)
        merged = outputs_on_random_input(model, image_size)
        parity: dict[str, Any] = {
            "tolerance": settings.tolerance,
            "adapted_vs_merged": _compare(adapted, merged),
        }
        _require_parity(parity["adapted_vs_merged"], settings.tolerance)
        with atomic_path(arguments.out / "sam3.pt") as temporary:
            keys = _write(temporary, model, arguments)
            reloaded = outputs_on_random_input(model, image_size)
            parity |= {"reloaded_vs_merged": _compare(merged, reloaded), "keys": keys}
            _require_parity(parity["reloaded_vs_merged"], 0.0)
        write_json(arguments.out / "parity.json", parity)
        _write_model_card(arguments.out / "MODEL_CARD.md", arguments, recipe)
        worst = max(item["relative"] for item in parity["adapted_vs_merged"].values())
        log_line(f"merged; adapted and merged outputs differ by at most {worst:.1e} (relative)")


def outputs_on_random_input(model: Sam3Image, image_size: int) -> Outputs:
    """A model's outputs for two prompts on one random image, the same every time."""
    noise = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, image_size, image_size, generator=noise)
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


def _require_same_base(recipe: dict[str, Any] | None, arguments: argparse.Namespace) -> None:
    if recipe is None:  # PEFT's own files do not name a base that could be compared
        return
    trained_on = (recipe["model"], recipe["weights"])
    if trained_on != (arguments.model, arguments.weights):
        raise AdapterError(
            f"trained on model {trained_on[0]!r} with weights {trained_on[1]!r}, but merged into "
            f"{arguments.model!r} with {arguments.weights!r}",
            file=arguments.adapter,
            fix="Set `model` and `weights` to those that the adapter was trained with",
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
    rest = read_official(base).rest if base else {}
    write_official(path, model.state_dict(), rest)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # so that a key that is not loaded shows in the outputs
    detector = read_official(path).detector
    load_strictly(model, detector, path)
    return len(detector) + len(rest)


def _history_of(recipe: dict[str, Any] | None) -> str:
    if recipe is None:
        return "- LoRA adapters trained with PEFT, merged\n"
    result, image_size = recipe["result"], recipe["image_size"]
    score = recipe["settings"]["select_by"]
    return (
        f"- {score} on the valid split: {result['best_score']:.4f} after epoch "
        f"{result['best_epoch']}; {result['base_score']:.4f} before training\n"
        f"- LoRA on {len(recipe['adapted'])} modules, merged; segtune {recipe['segtune']}\n"
        + (f"- Trained on images of {image_size} pixels, not 1008\n" if image_size else "")
    )


def _how_to_load(model: str) -> str:
    if model != "full":
        return "- A miniature of SAM 3, which the stock `build_sam3_image_model` cannot load"
    return '- Load it with `build_sam3_image_model(checkpoint_path="sam3.pt")`'


def _write_model_card(
    path: Path, arguments: argparse.Namespace, recipe: dict[str, Any] | None
) -> None:
    license = distribution("sam3").read_text("licenses/LICENSE")
    with atomic_path(path) as temporary:
        temporary.write_text(
            "# SAM 3, fine-tuned with segtune\n\n"
            f"- Base: `{arguments.model}`, weights `{arguments.weights}`\n"
            f"{_history_of(recipe)}"
            f"{_how_to_load(arguments.model)}\n\n"
            "SAM 3 and its derivatives are under the SAM License, which must accompany "
            f"these weights:\n\n{license}\n",
            "utf-8",
        )


if __name__ == "__main__":
    main()
