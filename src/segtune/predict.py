"""Predict with base or fine-tuned weights, on any folder of images or on a converted split.

On a folder (`--images DIR`), the output is a COCO dataset with polygons and scores, which
labeling tools import. `--run results` takes model, prompts and confidence thresholds from a
finished run; beside exported weights, `prompts.json` and `thresholds.json` are read; and
`--prompt TEXT …` asks for something else. `--list FILE` names the images that are meant. On a
split (`--coco test.json`), every class is prompted in every image, and the output has COCO's
results format; with `--prompt`, it is a COCO dataset with scores. Under torchrun, the processes
split the images among them. With `--tiles`, which a run that was trained on tiles has by itself,
each image is seen in overlapping windows. The results of a killed run are kept beside the output,
and the same command resumes it.
"""

import argparse
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
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
from segtune.dataset.image_names import read_list
from segtune.dataset.labels import write_labels
from segtune.dataset.tiles import tiles_option
from segtune.dataset.trained_run import (
    TrainedClass,
    TrainedModel,
    read_classes_beside,
    read_run,
    require_plain_prompts,
)
from segtune.model.architecture import ARCHITECTURES, set_image_size
from segtune.model.partial_predictions import (
    images_to_predict,
    predict_into,
    prediction_fingerprint,
)
from segtune.model.tokenizer import MAX_TOKENS, count_tokens
from segtune.model.weights import load_base_model

LABEL_THRESHOLD = 0.5  # confidence of labels for prompts that nothing is known of


class OutputFormat(StrEnum):
    """What is written."""

    RESULTS = "results"  # COCO results on a split
    PROMPTED = "prompted"  # COCO dataset with scores, for other prompts on a split
    LABELS = "labels"  # COCO dataset with polygons and scores, for a folder


@dataclass(frozen=True)
class _Task:
    """What is predicted."""

    model: TrainedModel
    split: Split
    settings: PredictSettings
    format: OutputFormat
    thresholds: Mapping[int, float] = field(default_factory=dict)  # by category, for labels


def main(argv: Sequence[str] | None = None) -> None:
    """Write the predictions, atomically."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    own = [arguments.coco, arguments.model, arguments.weights, arguments.image_size]
    if arguments.run and any(own):
        parser.error("--run has a model of its own, and goes with --images")
    if arguments.list and not arguments.images:
        parser.error("--list names images below --images")
    with exit_on_error("predict"), process_group() as processes:
        if processes.is_main:
            require_writable(arguments.out)
        task = _task(arguments)
        advice = f"Lower predict.prompts_per_pass (now {task.settings.prompts_per_pass})"
        lock = exclusive(arguments.out) if processes.is_main else nullcontext()
        with lock, memory_errors(advice):
            _predict(arguments, task, processes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segtune.predict", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--coco", type=Path, help="a split written by segtune.convert")
    source.add_argument("--images", type=Path, help="a folder of images")
    parser.add_argument("--list", type=Path, help="text file with paths below --images; only these")
    parser.add_argument("--prompt", nargs="+", default=[], help="prompts instead of the classes")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--run", type=Path, help="results folder of a finished run")
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), help="default: tiny")
    parser.add_argument("--weights", help="see config.yaml; or a merged sam3.pt")
    parser.add_argument("--image-size", type=int, help="side of the input, in pixels")
    parser.add_argument(
        "--tiles", help="tiles.json of segtune.tile, or the side of tiles in pixels: see images so"
    )
    parser.add_argument("--settings", default="{}", help="the predict section, as JSON")
    parser.add_argument("--keep", type=int, default=0, help="earlier predictions to keep")
    return parser


def _task(arguments: argparse.Namespace) -> _Task:
    settings = parse_section(PredictSettings, arguments.settings)
    model, classes = _model_and_classes(arguments)
    if arguments.images:
        names = read_list(arguments.list) if arguments.list else None
        split = split_of_folder(
            arguments.images, _label_categories(classes), setting="--images", names=names
        )
        return _labels(split, settings, model, classes)
    split = read_split(arguments.coco)
    if not classes:
        return _Task(model, split, settings, OutputFormat.RESULTS)
    split = replace(split, categories=_categories(classes))
    return _Task(model, split, settings, OutputFormat.PROMPTED)


def _model_and_classes(
    arguments: argparse.Namespace,
) -> tuple[TrainedModel, Sequence[TrainedClass]]:
    """Which model is prompted, and with what; no classes where those of a split are meant."""
    model = TrainedModel(
        arguments.weights or "default", arguments.model or "tiny", arguments.image_size
    )
    classes: Sequence[TrainedClass] = ()
    if arguments.run:
        model, classes = read_run(arguments.run)
    elif arguments.images and not arguments.prompt:
        classes = read_classes_beside(Path(model.weights))
    if arguments.prompt:
        classes = [TrainedClass(text, text, LABEL_THRESHOLD) for text in arguments.prompt]
    if arguments.tiles:
        model = replace(model, tiles=tiles_option(arguments.tiles))
    return model, classes


def _label_categories(classes: Sequence[TrainedClass]) -> tuple[Category, ...]:
    require_plain_prompts(classes)
    return _categories(classes)


def _labels(
    split: Split, settings: PredictSettings, model: TrainedModel, classes: Sequence[TrainedClass]
) -> _Task:
    if "confidence_threshold" in settings.model_fields_set:
        return _Task(model, split, settings, OutputFormat.LABELS)
    thresholds = {number: c.threshold for number, c in enumerate(classes, start=1)}
    lowest = settings.model_copy(update={"confidence_threshold": min(thresholds.values())})
    return _Task(model, split, lowest, OutputFormat.LABELS, thresholds)


def _categories(classes: Sequence[TrainedClass]) -> tuple[Category, ...]:
    for prompt in (c.prompt for c in classes):
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ConfigError(
                f"the prompt {prompt!r} is not UTF-8 text", fix="Check the encoding of the terminal"
            )
        if not prompt.strip() or count_tokens(prompt) > MAX_TOKENS:
            raise ConfigError(
                f"the prompt {prompt!r} is empty or has more than {MAX_TOKENS} tokens",
                fix="Describe the object in a few words",
            )
    return tuple(Category(n, c.name, c.prompt) for n, c in enumerate(classes, start=1))


def _predict(arguments: argparse.Namespace, task: _Task, processes: Processes) -> None:
    split = task.split
    # It hashes files of many GB, so only one process does.
    fingerprint = _fingerprint(task) if processes.is_main else {}
    found = processes.from_main(processes.is_main and _place_kept(arguments.out, fingerprint))
    if not found:
        folder = partial_folder(arguments.out)
        missing = images_to_predict(folder, fingerprint, split, processes)
        done = len(split.images) - len(missing)
        if done and processes.is_main:
            log_line(f"resuming: {done} of {len(split.images)} images are finished")
        _predict_missing(task, folder, missing=missing, processes=processes)
    if processes.is_main:
        if not found:
            _write(arguments, task, fingerprint)
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
    task: _Task, folder: Path, *, missing: list[Image], processes: Processes
) -> None:
    """Predict on the images that are missing, each process on some of them."""
    images = missing[processes.rank :: processes.count]
    if images:
        model = load_base_model(task.model.name, task.model.weights)
        image_size = set_image_size(model, task.model.name, task.model.image_size)
        model.to(processes.device)
        with progress("image", len(images), visible=processes.is_main) as advance:
            predict_into(
                folder,
                model,
                task.split,
                images,
                image_size=image_size,
                device=processes.device,
                settings=task.settings,
                advance=advance,
                tiles=task.model.tiles,
            )
    processes.sum([0.0])  # wait until all have finished


def _fingerprint(task: _Task) -> dict[str, Any]:
    """Everything that the results depend on; batches and processes are not part of it."""
    common = prediction_fingerprint(
        task.split,
        model=task.model.name,
        weights=task.model.weights,
        image_size=task.model.image_size,
        settings=task.settings,
    )
    return {
        **common,
        "format": task.format,
        "tiles": task.model.tiles and asdict(task.model.tiles),
        "thresholds": list(task.thresholds.values()),
        "code": code_fingerprints("predict"),
    }


def _write(arguments: argparse.Namespace, task: _Task, fingerprint: dict[str, Any]) -> None:
    out: Path = arguments.out
    summary = f"{len(task.split.images)} images, {len(task.split.categories)} prompts"
    records = gathered_records(partial_folder(out), [image.id for image in task.split.images])
    if arguments.keep:
        with kept_result(store_of(out), fingerprint, summary) as new:
            _write_records(new / out.name, task, records)
        place_file(just_kept(store_of(out), fingerprint), out)
    else:
        _write_records(out, task, records)
    log_line(f"{summary}: {out}")


def _write_records(out: Path, task: _Task, records: Iterable[dict[str, Any]]) -> None:
    if task.format == OutputFormat.RESULTS:
        write_records(out, records)
    elif task.format == OutputFormat.PROMPTED:
        write_prompted_detections(out, task.split, records)
    else:
        lowest = task.settings.confidence_threshold
        confident = (
            record
            for record in records
            if record["score"] >= task.thresholds.get(record["category_id"], lowest)
        )
        write_labels(out, task.split, confident)


if __name__ == "__main__":
    main()
