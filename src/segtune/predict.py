"""Predict with base or fine-tuned weights, on a converted split or on any folder of images.

On a split (`--coco test.json`), every class is prompted in every image, and the output has
COCO's results format. With `--prompt TEXT …`, these prompts replace the classes, on a split or
on a folder (`--images DIR`), and the output is a COCO dataset with scores, for labeling new
data. Under torchrun, the processes split the images among them. The results of a killed run
are kept beside the output, and the same command resumes it.
"""

import argparse
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from segtune.core.atomic import require_writable, write_records
from segtune.core.config import PredictSettings, parse_section
from segtune.core.console import log_line, progress
from segtune.core.errors import ConfigError, exit_on_error
from segtune.core.fingerprints import code_fingerprints
from segtune.core.gpu_memory import memory_errors
from segtune.core.kept import (
    find_kept,
    just_kept,
    kept_result,
    place_file,
    remove_oldest,
    store_of,
)
from segtune.core.partial_results import (
    gathered_records,
    partial_folder,
)
from segtune.core.processes import Processes, process_group
from segtune.core.publishing import exclusive
from segtune.dataset.coco import Category, Image, Split, read_split
from segtune.dataset.detections import write_prompted_detections
from segtune.dataset.image_folder import split_of_folder
from segtune.model.architecture import ARCHITECTURES, set_image_size
from segtune.model.partial_predictions import (
    images_to_predict,
    predict_into,
    prediction_fingerprint,
)
from segtune.model.tokenizer import MAX_TOKENS, count_tokens
from segtune.model.weights import load_base_model


def main(argv: Sequence[str] | None = None) -> None:
    """Write the predictions, atomically."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.images and not arguments.prompt:
        parser.error("--images needs --prompt")
    with exit_on_error("predict"), process_group() as processes:
        settings = parse_section(PredictSettings, arguments.settings)
        if processes.is_main:
            require_writable(arguments.out)
        advice = f"Lower predict.prompts_per_pass (now {settings.prompts_per_pass})"
        lock = exclusive(arguments.out) if processes.is_main else nullcontext()
        with lock, memory_errors(advice):
            _predict(arguments, settings, _split(arguments), processes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.predict", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--coco", type=Path, help="a split written by segtune.convert")
    source.add_argument("--images", type=Path, help="a folder of images")
    parser.add_argument("--prompt", nargs="+", default=[], help="prompts instead of the classes")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default="tiny")
    parser.add_argument("--weights", default="default", help="see config.yaml; or a merged sam3.pt")
    parser.add_argument("--image-size", type=int, help="side of the input, in pixels")
    parser.add_argument("--settings", default="{}", help="the predict section, as JSON")
    parser.add_argument("--keep", type=int, default=0, help="earlier predictions to keep")
    return parser


def _split(arguments: argparse.Namespace) -> Split:
    if arguments.images:
        return split_of_folder(arguments.images, _categories(arguments.prompt), setting="--images")
    split = read_split(arguments.coco)
    if arguments.prompt:
        return replace(split, categories=_categories(arguments.prompt))
    return split


def _categories(prompts: Sequence[str]) -> tuple[Category, ...]:
    for prompt in prompts:
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ConfigError(
                f"--prompt {prompt!r} is not UTF-8 text", fix="Check the encoding of the terminal"
            )
        if not prompt.strip() or count_tokens(prompt) > MAX_TOKENS:
            raise ConfigError(
                f"--prompt {prompt!r} is empty or has more than {MAX_TOKENS} tokens",
                fix="Describe the object in a few words",
            )
    return tuple(Category(n, prompt, prompt) for n, prompt in enumerate(prompts, start=1))


def _predict(
    arguments: argparse.Namespace, settings: PredictSettings, split: Split, processes: Processes
) -> None:
    # It hashes files of many GB, so only one process does.
    fingerprint = _fingerprint(arguments, settings, split) if processes.is_main else {}
    found, *_ = processes.gather(processes.is_main and _place_kept(arguments.out, fingerprint))
    if not found:
        folder = partial_folder(arguments.out)
        missing = images_to_predict(folder, fingerprint, split, processes)
        done = len(split.images) - len(missing)
        if done and processes.is_main:
            log_line(f"resuming: {done} of {len(split.images)} images are finished")
        _predict_missing(arguments, settings, split, missing=missing, processes=processes)
    if processes.is_main:
        if not found:
            _write(arguments, fingerprint, split)
        shutil.rmtree(partial_folder(arguments.out), ignore_errors=True)
        if arguments.keep:
            store = store_of(arguments.out)
            remove_oldest(store, arguments.out.parent, limit=arguments.keep)


def _place_kept(out: Path, fingerprint: dict[str, Any]) -> bool:
    """Put earlier predictions with this fingerprint in place, if they are kept."""
    kept = find_kept(store_of(out), fingerprint)
    if kept:
        place_file(kept, out)
        log_line(f"not predicting again: found the predictions of {kept.finished}: {out}")
    return bool(kept)


def _predict_missing(
    arguments: argparse.Namespace,
    settings: PredictSettings,
    split: Split,
    *,
    missing: list[Image],
    processes: Processes,
) -> None:
    """Predict on the images that are missing, each process on some of them."""
    images = missing[processes.rank :: processes.count]
    if images:
        model = load_base_model(arguments.model, arguments.weights)
        image_size = set_image_size(model, arguments.model, arguments.image_size)
        model.to(processes.device)
        with progress("image", len(images), visible=processes.is_main) as advance:
            predict_into(
                partial_folder(arguments.out),
                model,
                split,
                images,
                image_size=image_size,
                device=processes.device,
                settings=settings,
                advance=advance,
            )
    processes.sum([0.0])  # wait until all have finished


def _fingerprint(
    arguments: argparse.Namespace, settings: PredictSettings, split: Split
) -> dict[str, Any]:
    """Everything that the results depend on; batches and processes are not part of it."""
    common = prediction_fingerprint(
        split,
        model=arguments.model,
        weights=arguments.weights,
        image_size=arguments.image_size,
        settings=settings,
    )
    return {
        **common,
        "as_dataset": bool(arguments.prompt),
        "code": code_fingerprints("predict"),
    }


def _write(arguments: argparse.Namespace, fingerprint: dict[str, Any], split: Split) -> None:
    out: Path = arguments.out
    folder = partial_folder(out)
    summary = f"{len(split.images)} images, {len(split.categories)} prompts"
    if arguments.keep:
        with kept_result(store_of(out), fingerprint, summary) as new:
            _write_records(new / out.name, folder, split, as_dataset=bool(arguments.prompt))
        place_file(just_kept(store_of(out), fingerprint), out)
    else:
        _write_records(out, folder, split, as_dataset=bool(arguments.prompt))
    log_line(f"{summary}: {out}")


def _write_records(out: Path, folder: Path, split: Split, *, as_dataset: bool) -> None:
    records = gathered_records(folder, [image.id for image in split.images])
    if as_dataset:
        write_prompted_detections(out, split, records)
    else:
        write_records(out, records)


if __name__ == "__main__":
    main()
