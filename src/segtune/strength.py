"""Score a trained adapter at several strengths: what it has learned against what it retains.

The trained update is applied not at all (the base model), in part, in full and beyond. The score is
that of the classes on the valid split. What is retained is measured on generic images, with
prompts for what the base model knows: a folder of yours, or for the tiny model shapes that are
drawn for this. `segtune.merge` chooses among the strengths. Under torchrun,
the processes split the images among them, and the same command resumes a killed run.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage

from segtune.core.atomic import atomic_path
from segtune.core.config import PredictSettings, parse_section
from segtune.core.console import log_line, progress
from segtune.core.errors import AdapterError, DatasetError, exit_on_error
from segtune.core.fingerprints import code_fingerprints, file_digest
from segtune.core.gpu_memory import memory_errors
from segtune.core.partial_results import gathered_records, partial_folder
from segtune.core.processes import Processes, process_group
from segtune.core.typed_json import write_typed
from segtune.dataset.coco import Category, Image, Split, has_masks, read_split, with_rle_masks
from segtune.dataset.detections import Detections, from_record
from segtune.dataset.drawn_shapes import draw_scene
from segtune.dataset.image_folder import split_of_folder
from segtune.evaluation.strength import (
    detected_as_truth,
    estimated_retention,
    estimated_score,
)
from segtune.evaluation.strength_curve import StrengthCurve, StrengthPoint
from segtune.lora.adapter import attach_adapter
from segtune.lora.inject import set_strength
from segtune.model.architecture import ARCHITECTURES, set_image_size
from segtune.model.partial_predictions import (
    images_to_predict,
    predict_into,
    prediction_fingerprint,
)
from segtune.model.weights import load_base_model

DRAWN = "drawn_images"
STRENGTHS = (0.0, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
RESAMPLES = 1000  # of the images, behind the intervals
DRAWN_IMAGES = 60
DRAWN_SEED = 7
Found = dict[tuple[str, float], Detections]  # by name of the split and strength


def main(argv: Sequence[str] | None = None) -> None:
    """Write `strength.json`."""
    arguments = _parser().parse_args(argv)
    with exit_on_error("strength"), process_group() as processes:
        settings = parse_section(PredictSettings, arguments.settings)
        valid = with_rle_masks(read_split(arguments.coco))
        if not valid.objects:
            raise DatasetError("no objects to score on", file=arguments.coco, fix="Label some")
        if processes.is_main and _draws(arguments):
            _draw_images(arguments.out / DRAWN)
        processes.sum([0.0])  # wait until they are drawn
        splits = {"valid": valid, "generic": _generic(arguments, valid)}
        with memory_errors(f"Lower predict.prompts_per_pass (now {settings.prompts_per_pass})"):
            found = _detected(arguments, settings, splits, processes)
        if processes.is_main:
            curve = _curve(arguments, splits, found)
            write_typed(arguments.out / "strength.json", curve)
            for name, strength in found:
                shutil.rmtree(_folder(arguments, name, strength), ignore_errors=True)
            _print(curve)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.strength", description=__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="the valid split")
    parser.add_argument("--adapter", type=Path, required=True, help="as results/train/adapter")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--retain-images", type=Path, help="folder of generic images")
    parser.add_argument("--prompt", nargs="+", default=[], help="what the base model knows")
    parser.add_argument("--select-by", choices=["AP", "cgF1"], default="AP", help="the score")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="tiny")
    parser.add_argument("--weights", default="default", help="see config.yaml")
    parser.add_argument("--image-size", type=int, help="side of the input, in pixels")
    parser.add_argument("--settings", default="{}", help="the predict section, as JSON")
    return parser


def _draws(arguments: argparse.Namespace) -> bool:
    return bool(arguments.model == "tiny" and arguments.prompt and not arguments.retain_images)


def _draw_images(folder: Path) -> None:
    """What the tiny model knows, the same each time."""
    for number in range(DRAWN_IMAGES):
        path = folder / f"{number:03d}.png"
        if not path.exists():  # an interrupted run resumes by the files' times
            scene = draw_scene(np.random.default_rng([DRAWN_SEED, number]))
            with atomic_path(path) as temporary:
                PilImage.fromarray(scene.pixels).save(temporary, "PNG")


def _generic(arguments: argparse.Namespace, valid: Split) -> Split:
    """Generic images and their prompts; neither where what is retained is not measured."""
    categories = [Category(n, text, text) for n, text in enumerate(arguments.prompt, start=1)]
    folder = arguments.out / DRAWN if _draws(arguments) else arguments.retain_images
    if folder and categories:
        return split_of_folder(folder, categories, setting="merge.retain_images")
    return replace(valid, categories=(), images=(), annotations={})


def _detected(
    arguments: argparse.Namespace,
    settings: PredictSettings,
    splits: Mapping[str, Split],
    processes: Processes,
) -> Found:
    """The detections in all images at all strengths; in the main process only."""
    missing: dict[tuple[str, float], list[Image]] = {}
    for name, split in splits.items():
        # It hashes files of many GB, so only one process does.
        fingerprint = _fingerprint(arguments, settings, split) if processes.is_main else {}
        for strength in STRENGTHS if split.categories else ():
            folder = _folder(arguments, name, strength)
            missing[name, strength] = images_to_predict(folder, fingerprint, split, processes)
    if any(missing.values()):
        _predict_missing(arguments, settings, splits, missing=missing, processes=processes)
    processes.sum([0.0])  # wait until all have finished
    if not processes.is_main:
        return {}
    return {
        (name, strength): _read(_folder(arguments, name, strength), splits[name])
        for name, strength in missing
    }


def _read(folder: Path, split: Split) -> Detections:
    records = gathered_records(folder, [image.id for image in split.images])
    return Detections(map(from_record, records))


def _folder(arguments: argparse.Namespace, name: str, strength: float) -> Path:
    """Of the detections at one strength, from which an interrupted run resumes."""
    return partial_folder(arguments.out / f"{name}_{strength:g}")


def _fingerprint(
    arguments: argparse.Namespace, settings: PredictSettings, split: Split
) -> dict[str, Any]:
    """Everything that the detections depend on; batches and processes are not part of it."""
    common = prediction_fingerprint(
        split,
        model=arguments.model,
        weights=arguments.weights,
        image_size=arguments.image_size,
        settings=settings,
    )
    return {
        **common,
        "adapter_sha256": {
            path.name: file_digest(path, AdapterError, "Check --adapter")
            for path in sorted(arguments.adapter.glob("*"))
        },
        "code": code_fingerprints("strength"),
    }


def _predict_missing(
    arguments: argparse.Namespace,
    settings: PredictSettings,
    splits: Mapping[str, Split],
    *,
    missing: Mapping[tuple[str, float], Sequence[Image]],
    processes: Processes,
) -> None:
    model = load_base_model(arguments.model, arguments.weights)
    attach_adapter(model, arguments.adapter)
    image_size = set_image_size(model, arguments.model, arguments.image_size)
    model.to(processes.device)
    own = {key: images[processes.rank :: processes.count] for key, images in missing.items()}
    steps = sum(map(len, own.values()))
    with progress("image", steps, visible=processes.is_main) as advance:
        for (name, strength), images in own.items():
            set_strength(model, strength)
            predict_into(
                _folder(arguments, name, strength),
                model,
                splits[name],
                images,
                image_size=image_size,
                device=processes.device,
                settings=settings,
                advance=advance,
            )


def _curve(
    arguments: argparse.Namespace, splits: Mapping[str, Split], found: Found
) -> StrengthCurve:
    valid, generic = splits["valid"], splits["generic"]
    nothing = Detections()
    truth = detected_as_truth(generic, found.get(("generic", 0.0), nothing))
    cgf1 = arguments.select_by == "cgF1"
    return StrengthCurve(
        score="cgF1" if cgf1 else "mask AP" if has_masks(valid) else "box AP",
        images=len(valid.images),
        generic_images=len(generic.images),
        prompts=tuple(arguments.prompt),
        base_detections=len(truth.objects),
        points=tuple(
            StrengthPoint(
                strength=strength,
                score=estimated_score(
                    valid, found["valid", strength], cgf1=cgf1, resamples=RESAMPLES
                ),
                retained=estimated_retention(
                    truth, found.get(("generic", strength), nothing), resamples=RESAMPLES
                ),
            )
            for strength in STRENGTHS
        ),
    )


def _print(curve: StrengthCurve) -> None:
    if not curve.generic_images:
        log_line(
            "what is retained is not measured, which takes merge.retain_images and "
            "evaluate.ood_prompts"
        )
    elif not curve.base_detections:
        log_line("WARNING: the base model detects nothing that could be retained")
    for point in curve.points:
        log_line(
            f"strength {point.strength:.1f}: {curve.score} {_shown(point.score.value)} on valid, "
            f"retained {_shown(point.retained.value)}"
        )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    main()
